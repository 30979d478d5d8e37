"""What tells that a model or its data are no longer what they were."""
