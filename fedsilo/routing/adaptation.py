"""Test-time adaptation at an outside site: gradient steps on gates and norm layers, from its images alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedsilo.errors import RoutingError
from fedsilo.outside_params import AdaptationParams, OutsideParams
from fedsilo.routing import experts, norms, objectives, pieces
from fedsilo.routing.pieces import Geometry, Pieces
from fedsilo.segmentation import inference
from fedsilo.tensors import StateDict


@dataclass(frozen=True)
class Image:
    """A case as adaptation sees it.

    Attributes:
        name: Of the case.
        voxels: Normalised intensities; not modified.
        spacing_zyx_mm: Voxel edges. In 3D the contour window, ``shape_radius_px`` in x, spans the same millimetres along all
            axes; None takes cubes.
    """

    name: str
    voxels: Float[Tensor, "c z y x"]
    spacing_zyx_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Method:
    """How to adapt, and to what a network fits.

    Attributes:
        params: Noise, window and batch size.
        adaptation: What is trained, how long, on which losses, and what is carried from case to case.
        geometry: What the network takes.
        device: Where to compute.
    """

    params: OutsideParams
    adaptation: AdaptationParams
    geometry: Geometry
    device: torch.device | str


@dataclass(frozen=True)
class Step:
    """The losses after a number of gradient steps."""

    consistency: float
    shape: float
    entropy: float
    total: float


@dataclass(frozen=True)
class Adapted:
    """What adaptation made for a case.

    Attributes:
        name: Of the case.
        state: An ordinary state of the template; predict with it in eval mode. With ``sample`` gates the entries of ``network``.
        network: Only with ``sample`` gates, whose weights differ from slice to slice: predict with it, in eval mode.
        routes_before: Route of every layer before the case's first step, (E,), on the CPU.
        routes_after: The same after the last step: those that ``state`` was merged with.
        objective: Losses on the case's drawn pieces, each with a view of its own: episodic after 0, 1, ... steps, else before
            and after the steps of the case (online) or of the site (transductive).
        trained: Which of ``gates`` and ``norms`` had parameters to train.
    """

    name: str
    state: StateDict
    network: nn.Module | None
    routes_before: Mapping[str, Float[Tensor, " e"]]
    routes_after: Mapping[str, Float[Tensor, " e"]]
    objective: tuple[Step, ...]
    trained: tuple[str, ...]


def adapt(
    images: Iterable[Image],
    method: Method,
    *,
    start: Callable[[Image], nn.Module],
    draws: Callable[[str, int], torch.Generator],
) -> Iterator[Adapted]:
    """Adapt a routed network to a site's cases and merge it, for each, into an ordinary state.

    - ``episodic``: everything starts afresh for each case. Its pieces are drawn once: in 2D ``batch_size`` of its slices, or
      all if there are no more; in 3D the volume, or as many patches if it is larger than one. Every step sees all pieces and a
      second view of them that is drawn anew.
    - ``online``: one pass over the cases in the order given; each batch of a case's slices makes one step, and what was learnt
      is carried on. A case is predicted after its own steps.
    - ``transductive``: as many passes over all cases as there are steps, a step a batch; then every case is predicted.

    Each step is one Adam step on the weighted losses; steps are fixed in advance. At the end the routes are measured on the
    case's drawn pieces and the weights merged. Trained are the gates of all layers and scale and shift of norm layers, as
    asked for; of what the network does not have (MONAI's ``norm="INSTANCE"`` has neither scale nor shift) nothing is trained,
    and ``trained`` says so. BatchNorm uses a share of the experts' statistics and measures the rest on the batch; those of the
    last measurement are stored in ``state``: later predictions in eval mode use them, and so do not depend on batch mates.

    Args:
        images: A site's cases; gone through several times by ``transductive``.
        method: How.
        start: Gives the routed network to start from, from ``experts.build``; not modified. Asked for each case (episodic) or
            for the first one.
        draws: Gives a generator on the CPU by a case's name and pass, from 0.

    Yields:
        One result a case, in order.

    Raises:
        RoutingError: Nothing can be trained, a loss is not finite, or batch statistics are asked of a single value.

    Reference:
        Jiang et al., IOP-FL, IEEE TMI 2023 (outside part); with one expert, norm layers and entropy alone Wang et al., TENT,
        ICLR 2021. Deviations: softmax gates in every layer, the experts' norm statistics, a new view every step, prediction with
        one merged model.
    """
    protocols = {"episodic": _episodic, "online": _online, "transductive": _transductive}
    return protocols[method.adaptation.protocol](images, method, start, draws)


def _episodic(
    images: Iterable[Image], method: Method, start: Callable[[Image], nn.Module], draws: Callable[[str, int], torch.Generator]
) -> Iterator[Adapted]:
    for image in images:
        learner, generator = _Learner(start(image), method), draws(image.name, 0)
        case = learner.look(image, generator)
        steps = [learner.step(case, generator) for _ in range(method.adaptation.steps)]
        yield learner.finish(case, [*steps, learner.measure(case, generator)])


def _online(
    images: Iterable[Image], method: Method, start: Callable[[Image], nn.Module], draws: Callable[[str, int], torch.Generator]
) -> Iterator[Adapted]:
    learner: _Learner | None = None
    for image in images:
        learner, generator = learner or _Learner(start(image), method), draws(image.name, 0)
        case = learner.look(image, generator)
        first = learner.measure(case, generator)
        learner.walk(image, generator)
        yield learner.finish(case, [first, learner.measure(case, generator)])


def _transductive(
    images: Iterable[Image], method: Method, start: Callable[[Image], nn.Module], draws: Callable[[str, int], torch.Generator]
) -> Iterator[Adapted]:
    learner: _Learner | None = None
    firsts = {}
    for index in range(method.adaptation.steps + 1):
        for image in images:
            learner, generator = learner or _Learner(start(image), method), draws(image.name, index)
            if index < method.adaptation.steps:
                if index == 0:
                    case = learner.look(image, draws(image.name, method.adaptation.steps))
                    firsts[image.name] = learner.measure(case, generator)
                learner.walk(image, generator)
                continue
            case = learner.look(image, generator)
            first = firsts.get(image.name) or learner.measure(case, generator)
            yield learner.finish(case, [first, learner.measure(case, generator)])


@dataclass(frozen=True)
class _Case:
    """A case while it is adapted to."""

    name: str
    pieces: Pieces
    radius: tuple[int, ...]


@dataclass(frozen=True)
class _Look:
    """Losses on a case's pieces, (4,), and the routes that its layers took there."""

    losses: Tensor
    routes: Mapping[str, Tensor]


class _Learner:
    """A network that learns, and its optimiser."""

    def __init__(self, routed: nn.Module, method: Method) -> None:
        """Copy the network and choose what is trained."""
        self.method, adaptation = method, method.adaptation
        self.network = norms.blend(experts.fresh(routed).to(method.device).eval(), adaptation.source_share)
        self.network.requires_grad_(requires_grad=False)
        groups = {"gates": experts.gate_parameters(self.network), "norms": experts.norm_parameters(self.network)}
        self.trained = tuple(name for name in groups if name in adaptation.train and groups[name])
        parameters = [parameter for name in self.trained for parameter in groups[name]]
        if adaptation.steps and not parameters:
            raise RoutingError(f"cannot adapt: the network has no parameters of {' or '.join(adaptation.train)} to train")
        for parameter in parameters:
            parameter.requires_grad = True
        self.optimizer = torch.optim.Adam(parameters, lr=adaptation.learning_rate) if parameters else None

    def look(self, image: Image, generator: torch.Generator) -> _Case:
        """Draw a case's pieces."""
        params, geometry = self.method.params, self.method.geometry
        drawn = pieces.draw(image.voxels, num_pieces=params.batch_size, geometry=geometry, generator=generator)
        return _Case(image.name, drawn.to(self.method.device), self._radius(image))

    def walk(self, image: Image, generator: torch.Generator) -> None:
        """Make a step for each batch of a case's slices."""
        params, geometry = self.method.params, self.method.geometry
        for batch in pieces.batches(image.voxels, batch_size=params.batch_size, geometry=geometry, generator=generator):
            self.step(_Case(image.name, batch.to(self.method.device), self._radius(image)), generator)

    def step(self, case: _Case, generator: torch.Generator) -> _Look:
        """Make a gradient step; return what was seen before it."""
        if self.optimizer is None:
            raise RoutingError("cannot step: there is nothing to train")
        shown, view = case.pieces.items, self._view(case, generator)
        logits, routes = experts.run(self.network, shown)
        terms = self._terms(case, logits, self._view_logits(shown, view))
        self.optimizer.zero_grad()
        torch.autograd.backward([terms.total])
        self.optimizer.step()
        return _Look(_stack(terms), routes)

    def measure(self, case: _Case, generator: torch.Generator) -> _Look:
        """Look without a step; norm layers saw the case as it is last."""
        with torch.no_grad():
            shown, view = case.pieces.items, self._view(case, generator)
            view_logits = self._view_logits(shown, view)
            logits, routes = experts.run(self.network, shown)
            return _Look(_stack(self._terms(case, logits, view_logits)), routes)

    def finish(self, case: _Case, looks: list[_Look]) -> Adapted:
        """Merge what the case is predicted with, right after it was measured; the learner itself is left as it is."""
        before, after = looks[0].routes, looks[-1].routes
        by_sample = self.method.adaptation.gate == "sample" and "gates" in self.trained
        network = None
        if by_sample:
            network = experts.fresh(self.network).requires_grad_(requires_grad=False)
            norms.settle(network)
            state = {name: value.cpu().clone() for name, value in network.state_dict().items()}
        else:
            state = experts.merge(self.network, after) | norms.settled(self.network)
        return Adapted(
            name=case.name,
            state=state,
            network=network,
            routes_before={name: route.cpu() for name, route in before.items()},
            routes_after={name: route.cpu() for name, route in after.items()},
            objective=_steps([look.losses for look in looks]),
            trained=self.trained,
        )

    def _view(self, case: _Case, generator: torch.Generator) -> objectives.View:
        """Draw a view of a case's pieces."""
        return objectives.sample_view(case.pieces.items.shape, noise_sd=self.method.params.noise_sd, generator=generator)

    def _view_logits(self, shown: Tensor, view: objectives.View) -> Tensor:
        """Segment a view of pieces and turn the result back."""
        return objectives.invert_view(self.network(objectives.apply_view(shown, view)), view)

    def _terms(self, case: _Case, logits: Tensor, view_logits: Tensor) -> objectives.Terms:
        """Compute the losses of a case's pieces and of a view of them."""
        size, weights = case.pieces.size, self.method.adaptation.objective
        cropped = (inference.crop(logits, size), inference.crop(view_logits, size))
        return objectives.combine(*cropped, weights=weights, radius=case.radius)

    def _radius(self, image: Image) -> tuple[int, ...]:
        dims = self.method.geometry.spatial_dims
        return pieces.window_radius(self.method.params.shape_radius_px, spatial_dims=dims, spacing_zyx_mm=image.spacing_zyx_mm)


def _stack(terms: objectives.Terms) -> Tensor:
    return torch.stack([terms.consistency, terms.shape, terms.entropy, terms.total]).detach()


def _steps(losses: list[Tensor]) -> tuple[Step, ...]:
    table = torch.stack(losses).cpu()
    for index, row in enumerate(table):
        if not row.isfinite().all():
            raise RoutingError(f"cannot adapt: the losses of step {index} are not finite: {row.tolist()}")
    return tuple(Step(*row) for row in table.tolist())
