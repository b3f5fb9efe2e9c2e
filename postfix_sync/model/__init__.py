"""The frozen values that flow through a sync. Pure."""
