"""How the report says things: numbers as text, what the methods are."""

from types import MappingProxyType

from fedsilo.evaluation.statistics import Interval

MEANING = MappingProxyType(
    {
        "global": "one model for all sites, trained by the federation",
        "inside": "each inside site's own model, folded from its rounds",
        "local": "trained at the site alone, without the federation",
        "finetuned": "the global model, tuned further at the site",
        "finetuned_best": "the same after as many epochs as the site's validation cases chose",
        "ensemble": "mean of the probabilities of the global and all inside models",
        "soup": "mean of the weights of the global and all inside models",
        "router": "these models averaged by what a few slices of the case say, behind a gate against harm",
        "router_ungated": "the same without the gate",
        "dg_tta": "the global model, adapted until two warped views of the case are segmented alike",
        "routing-paper": "test-time routing over these models, loss weights as in the paper",
        "routing-release": "test-time routing over these models, loss weights as in the authors' released code",
    }
)
"""What each method is, in the words of the reading guide."""

INTERVAL_MARKS = MappingProxyType({"bca": "", "percentile": "†", "point": "‡"})
"""Beside an interval: how it was made, if not by BCa."""

INTERVAL_LEGEND = "BCa; † percentile, fewer than ten patients; ‡ no interval, one patient or no spread"

SMALL_P = 0.001


def number(value: float, decimals: int) -> str:
    """Write a number with a true minus sign.

    Example:
        >>> number(-0.0301, 3), number(12.0, 1)
        ('−0.030', '12.0')
    """
    text = f"{value:.{decimals}f}"
    return ("\N{MINUS SIGN}" + text[1:] if text.startswith("-") else text) if float(text) else f"{0:.{decimals}f}"


def bounds(interval: Interval, decimals: int = 3) -> str:
    """Write the ends of an interval; a point has none, only its mark.

    Example:
        >>> bounds(Interval(0.8, 0.7412, 0.86, "percentile", 6)), bounds(Interval(0.8, 0.8, 0.8, "point", 1))
        ('[0.741, 0.860]†', '‡')
    """
    mark = INTERVAL_MARKS[interval.method]
    if interval.method == "point":
        return mark
    return f"[{number(interval.low, decimals)}, {number(interval.high, decimals)}]{mark}"


def interval(found: Interval, decimals: int = 3) -> str:
    """Write a mean and the ends of its interval."""
    return f"{number(found.mean, decimals)} {bounds(found, decimals)}"


def percent(share: float, decimals: int = 0) -> str:
    """Write a share.

    Example:
        >>> percent(0.95), percent(0.0312, 1)
        ('95 %', '3.1 %')
    """
    return f"{100 * share:.{decimals}f} %"


def p_value(value: float | None) -> str:
    """Write a p-value; None is ``not testable``.

    Example:
        >>> p_value(0.00002), p_value(0.0312), p_value(None)
        ('< 0.001', '0.031', 'not testable')
    """
    if value is None:
        return "not testable"
    return f"< {SMALL_P}" if value < SMALL_P else f"{value:.3f}"
