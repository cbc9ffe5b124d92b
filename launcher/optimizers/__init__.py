"""One file an optimizer.

`Config`                          the recipe's `optimizer` section
`build(param_groups, config)`     a plain `torch.optim.Optimizer`; `launcher.param_groups` tells what a group holds
`state_bytes(config, shape, item_bytes, hidden)`
                                  bytes of the state of one trained parameter, scalars aside; `item_bytes` of the parameter's own
                                  type, `hidden` as in `param_groups`. No torch.
`ELEMENTWISE`                     whether each element has states of its own and is updated from its own gradient alone, so that
                                  flattened shards (DeepSpeed's ZeRO) give the same training and the same checkpoint
`NEEDS_GPU`                       whether it cannot run on a CPU (absent: it can)
"""
