"""zero3: of every weight a rank keeps a part of equal size, the last one padded; small weights stay gathered besides."""

from collections.abc import Sequence

from launcher.memory.shares import Setting, Share
from launcher.memory.zero_choices import FP32, Choices, ceil, parameter_groups
from launcher.model_facts import Weight


def share(setting: Setting, choices: Choices) -> Share:
    """Bytes of a rank under zero3, as DeepSpeed 0.19 allocates them (Rajbhandari et al., arXiv:1910.02054)."""
    world, trained = setting.world_size, setting.trained
    part = sum(ceil(weight.numel, world) for weight in trained)
    weights, weights_on_host = _parts_of_weights(setting, choices)
    sub_groups = [numel for group in parameter_groups(trained) for numel in _sub_groups(group, world, choices)]
    states = sum(setting.state_bytes((numel,), FP32, False) for numel in sub_groups)
    gradients, optimizer = FP32 * part, FP32 * part + states
    items = choices.exchanged_items(trained, setting.trained_item)
    second_copy = _second_copy(setting, choices)
    offloads = choices.offload_optimizer != "none"
    on_host = gradients + FP32 * part + (optimizer if choices.offload_optimizer == "cpu" else 0)
    return Share(
        weights=weights,
        gradients=0 if offloads else gradients,
        optimizer=0 if offloads else optimizer,
        communication=choices.bucket * sum(items) + second_copy,
        exchange=_gathered(setting, choices) + setting.largest_gradient + choices.bucket * max(items),
        update=0 if offloads else FP32 * max(sub_groups),
        host=weights_on_host + (on_host if offloads else 0),
    )


def _parts_of_weights(setting: Setting, choices: Choices) -> tuple[int, int]:
    """(bytes on the device, bytes on the host): the parts, and the small weights that stay gathered."""
    device = host = 0
    for weight in setting.weights:
        numel, item, scales = _as_parameter(weight, setting)
        part = item * ceil(numel, setting.world_size)
        stays = numel <= choices.sizes["stage3_param_persistence_threshold"]
        if choices.offload_param == "none" or (stays and not weight.trained):
            device += part
        elif choices.offload_param == "cpu":
            host += part
        is_copied = setting.world_size > 1 or choices.offload_param != "none"
        device += scales + (part * setting.world_size if stays and is_copied else 0)
    return device, host


def _as_parameter(weight: Weight, setting: Setting) -> tuple[int, int, int]:
    """(elements, bytes of one, bytes that belong to it and are not sharded): DeepSpeed sees the codes of a quantised weight."""
    if weight.stored is not None:
        return weight.stored.codes, 1, weight.stored.scales
    return weight.numel, setting.trained_item if weight.trained else setting.frozen_item, 0


def _sub_groups(group: Sequence[Weight], world_size: int, choices: Choices) -> list[int]:
    """Elements of each part of a group that the optimizer updates at once."""
    numels, size = [ceil(weight.numel, world_size) for weight in group], choices.sizes["sub_group_size"]
    made, open_one = [], 0
    for number, numel in enumerate(numels):
        open_one += numel
        if open_one >= size or number == len(numels) - 1:
            made.append(open_one)
            open_one = 0
    return made if sum(numels) > size else [sum(numels)]


def _gathered(setting: Setting, choices: Choices) -> int:
    """Bytes of whole weights at once: those that are prefetched, and the last ones of the forward pass, soon used again."""
    if setting.world_size == 1 and choices.offload_param == "none":
        return 0
    small = choices.sizes["stage3_param_persistence_threshold"]
    sizes = [_as_parameter(weight, setting) for weight in setting.weights]
    whole = [(numel, numel * item) for numel, item, _ in sizes if numel > small]
    if not whole:
        return 0
    prefetched, kept = choices.sizes["stage3_prefetch_bucket_size"], choices.sizes["stage3_max_reuse_distance"] // 2
    most = prefetched + kept + max(numel for numel, _ in whole)
    numel, number_of_bytes = sum(n for n, _ in whole), sum(b for _, b in whole)
    # What is prefetched comes as one tensor, and is copied.
    return number_of_bytes * min(most + prefetched, numel) // numel


def _second_copy(setting: Setting, choices: Choices) -> int:
    """ZeRO++ keeps another copy of the weights in parts within each node (Wang et al., arXiv:2306.10209)."""
    ranks = choices.sizes["zero_hpz_partition_size"]
    if ranks <= 1:
        return 0
    return sum(ceil(setting.bytes_of(weight), ranks) for weight in setting.weights)
