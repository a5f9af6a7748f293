"""A prepared case without its labels: image and recipe are read, and nothing else of the file."""

from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from jaxtyping import Float
from torch import Tensor

from fedsilo.cohort import preprocess
from fedsilo.cohort.preprocess import Recipe
from fedsilo.errors import DataError


@dataclass(frozen=True)
class UnlabelledCase:
    """What a model may see of a case that nobody has annotated.

    Attributes:
        image: Z-scored intensities on the working grid.
        recipe: How it was made from the stored image, and the way back.
    """

    image: Float[Tensor, "c z y x"]
    recipe: Recipe


def load(path: Path) -> UnlabelledCase:
    """Read image and recipe of a prepared case; the file may lack all else.

    Raises:
        DataError: The file is missing or damaged.
    """
    recipe = preprocess.recipe_of(path)
    try:
        with safetensors.safe_open(path, framework="pt") as handle:
            image = handle.get_tensor("image").to(torch.float32)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"cannot read prepared case {path}: {error}") from error
    return UnlabelledCase(image, recipe)
