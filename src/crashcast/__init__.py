"""What more than one stage, or a command, needs."""
