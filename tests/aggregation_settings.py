"""Params of the server's step for tests: FedAvg, with what a test changes; of admission: what is checked without comparison."""

from fedsilo.admission_params import AdmissionParams
from fedsilo.aggregation_params import AggregationParams, ServerOptimizerParams

OPTIMIZER = {"name": "none", "learning_rate": 1.0, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3}


def aggregation_params(*, optimizer=None, **changes):
    plain = {"rule": "average", "num_hostile": 1, "keep": None, "nearest_mixing": False, "clip_norm": None, "centring_steps": 3}
    return AggregationParams(**(plain | changes), optimizer=ServerOptimizerParams(**(OPTIMIZER | (optimizer or {}))))


def admission_params(**changes):
    plain = {"max_norm_ratio": None, "max_statistics_ratio": None, "min_cosine": None, "max_drift_ratio": None}
    return AdmissionParams(**({"quorum": 1.0, "veto_margin": None, "drift_rounds": 5} | plain | changes))
