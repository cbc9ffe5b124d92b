"""What of the base model is trained, and how. One file a method: `Config`, `apply(model, config)`, `merge(model)`."""
