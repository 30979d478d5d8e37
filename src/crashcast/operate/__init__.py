"""The model at work: scores of the fleet's newest rows, and what raises them."""
