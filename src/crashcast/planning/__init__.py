"""What the next year costs: computers, storage, people and money, forecast from what this project's runs have cost."""
