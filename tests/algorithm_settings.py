"""Params of federated algorithms that tests share."""

from fedsilo.params import AlgorithmParams, FoldParams


def algorithm_params(name="fedavg", **changes):
    base = AlgorithmParams(name=name, fedprox_mu=0.1, ditto_lambda=0.1, fedrep_head_epochs=1, apfl_mix=0.5, apfl_mix_rate=0.01)
    return base.model_copy(update=changes)


def inside_fold(momentum=0.1, buffers="fold"):
    return {"inside": FoldParams(momentum=momentum, buffers=buffers)}
