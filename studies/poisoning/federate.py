"""Train federations in which one site turns hostile: `flows.federate` with the turns of `hostile`.

    python studies/poisoning/federate.py --attack none | reversed_tenfold | reversed_hundredfold ...

All other options are those of `flows.federate`.
"""

import argparse
import sys
from collections.abc import Sequence

import hostile

from flows import federate
from tasks import turns

ATTACKS = {
    "none": turns.site_turn,
    "reversed_tenfold": hostile.reversed_tenfold,
    "reversed_hundredfold": hostile.reversed_hundredfold,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exchange the turn, then run the phase."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], add_help=False)
    parser.add_argument("--attack", choices=ATTACKS, required=True)
    options, rest = parser.parse_known_args(argv)
    turns.site_turn = ATTACKS[options.attack]
    return federate.main(rest)


if __name__ == "__main__":
    sys.exit(main())
