"""The commands: options in, exit status out; how answers look to people and to Nagios."""
