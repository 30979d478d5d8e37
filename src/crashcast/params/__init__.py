"""params.yaml, typed: one file per section, named like it, so that a stage depends on the sections it reads alone."""
