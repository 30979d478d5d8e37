"""Commits of the project: what each recorded, the objects and the environment it names, and its stages run anew."""
