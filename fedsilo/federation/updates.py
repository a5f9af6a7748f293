"""SiteUpdate: all that may leave a site."""

from dataclasses import dataclass

from fedsilo.tensors import StateDict


@dataclass(frozen=True, eq=False)
class SiteUpdate:
    """What a site sends after its local training of one round; nothing else leaves it.

    Attributes:
        site: Who sends.
        round_index: Round it answers to, from 0.
        base_sha256: Hash of the file of the global state that the training started from.
        num_cases: Training cases behind the state.
        num_slices: Their slices.
        train_loss: Mean over the round's batches.
        val_dice_global: Mean Dice of the received global state on the site's validation cases; None if not evaluated.
        val_dice_inside: The same of the site's inside model.
        latent_size: Effective size of the site's data, rounded; None unless sites are weighted by it.
        state: After local training, on the CPU; parameters and buffers.
    """

    site: str
    round_index: int
    base_sha256: str
    num_cases: int
    num_slices: int
    train_loss: float
    val_dice_global: float | None
    val_dice_inside: float | None
    latent_size: float | None
    state: StateDict
