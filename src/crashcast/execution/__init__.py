"""How stages run: tasks of one partition each, remembered results, guards."""
