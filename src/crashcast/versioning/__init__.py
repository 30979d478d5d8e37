"""What git, DVC and the bucket hold: the only modules that know their formats."""
