"""One sync, stage by stage: fetch, merge, decide, plan, apply, report."""
