"""One file an optimizer: `Config` (the recipe's `optimizer` section) and `build(param_groups, config)`."""
