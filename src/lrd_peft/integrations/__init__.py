"""What other tools need of a model that thinks: a transformers model without this package."""
