"""Laws of the marginal loss."""

import pytest
import torch
from torch.testing import assert_close

from fedsilo.segmentation import losses


@pytest.fixture
def logits():
    return torch.randn(2, 5, 6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def labels():
    return torch.randint(0, 5, (2, 6, 4), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("annotated", [(1,), (2, 4), (1, 2, 3, 4), (4, 2)])
def test_softmax_of_merged_logits_is_the_merged_softmax(logits, annotated):
    merged = losses.merge_logits(logits, annotated).softmax(dim=1)

    plain = logits.softmax(dim=1)
    rest = [value for value in range(5) if value not in annotated]
    assert_close(merged[:, 0], plain[:, rest].sum(dim=1))
    for index, organ in enumerate(sorted(annotated), start=1):
        assert_close(merged[:, index], plain[:, organ])


def test_with_every_organ_annotated_the_marginal_loss_is_the_plain_one(logits, labels):
    assert_close(losses.marginal_dice_ce(logits, labels, annotated=(1, 2, 3, 4)), losses.dice_ce(logits, labels))


def test_what_an_unannotated_organ_gets_does_not_matter(logits, labels):
    """Swapping probability between background and an organ nobody looked for changes nothing."""
    swapped = logits[:, [3, 1, 2, 0, 4]]

    expected = losses.marginal_dice_ce(logits, labels, annotated=(1, 2, 4))
    assert_close(losses.marginal_dice_ce(swapped, labels, annotated=(1, 2, 4)), expected)


def test_labels_outside_the_annotated_set_become_rest(labels):
    merged = losses.merge_labels(labels, (2, 4))

    assert torch.equal(merged, torch.where(labels == 2, 1, torch.where(labels == 4, 2, 0)))


def test_an_organ_absent_from_the_batch_gives_no_dice_gradient(logits):
    labels = torch.ones(2, 6, 4, dtype=torch.int64)
    z = logits.clone().requires_grad_()
    onehot_dice = losses.dice_ce(z, labels) - torch.nn.functional.cross_entropy(z, labels)
    p = z.softmax(dim=1)[:, 1]

    assert_close(onehot_dice, 1 - 2 * p.sum() / (p.sum() + labels.numel() + losses.DICE_SMOOTH))


def test_perfect_logits_lose_nothing_and_wrong_ones_lose_more(labels):
    perfect = 40.0 * torch.nn.functional.one_hot(labels, 5).movedim(-1, 1).double()

    assert losses.dice_ce(perfect, labels) < 1e-4
    assert losses.dice_ce(-perfect, labels) > 1


def test_one_voxel_by_hand():
    """p = (1/4, 3/4), y = 1: CE = ln 4/3; Dice = 1 - 2*.75/(.75+1)."""
    logits = torch.tensor([[[0.0], [1.0986122886681098]]], dtype=torch.float64)[..., None]

    loss = losses.dice_ce(logits, torch.ones(1, 1, 1, dtype=torch.int64))

    assert float(loss) == pytest.approx(0.2876820724 + 1 - 1.5 / 1.75, abs=1e-5)


@pytest.mark.parametrize("annotated", [(), (0, 1), (5,)])
def test_impossible_organ_sets_are_refused(logits, annotated):
    with pytest.raises(ValueError, match=r"annotated organs must be within 1\.\.4"):
        losses.merge_logits(logits, annotated)


class TestConditionalDistillation:
    F = (1, 3)
    REST = (0, 2, 4)

    def loss(self, logits, taught, labels, annotated=F):
        return losses.conditional_distillation(logits, taught, labels, annotated=annotated, temperature=2.0)

    def test_by_its_definition(self, logits, labels):
        taught = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        mask = torch.tensor([[value not in self.F for value in row] for row in labels.flatten(1).tolist()])
        mask &= torch.tensor([[value not in self.F for value in row] for row in taught.argmax(dim=1).flatten(1).tolist()])
        scores = []
        for group in self.REST:
            student, teacher = (
                (z[:, group] / 2).exp() / sum((z[:, other] / 2).exp() for other in self.REST) for z in (logits, taught)
            )
            q, t = student.flatten(1)[mask], teacher.flatten(1)[mask]
            scores.append(2 * (q * t).sum() / (q.sum() + t.sum() + 1e-5))

        assert_close(self.loss(logits, taught, labels), 1 - sum(scores) / len(scores))

    def test_conditional_probabilities_leave_the_annotated_organs_out(self, logits, labels):
        taught = logits.flip(0)
        shouted = logits.clone()
        shouted[:, [1, 3]] += 100

        assert_close(self.loss(shouted, taught, labels), self.loss(logits, taught, labels))

    def test_no_gradient_outside_the_unknown_voxels_nor_to_the_teacher(self, logits, labels):
        logits, taught = logits.requires_grad_(), logits.detach().flip(0).requires_grad_()

        self.loss(logits, taught, labels).backward()

        annotated = torch.tensor(self.F)
        known = torch.isin(labels, annotated) | torch.isin(taught.argmax(dim=1), annotated)
        moved = logits.grad.abs().amax(dim=1) > 0
        assert taught.grad is None
        assert not (moved & known).any()
        assert torch.equal(moved, ~known)

    def test_a_sure_student_of_a_sure_teacher_loses_nothing(self):
        labels = torch.zeros(1, 3, 1, dtype=torch.long)
        sure = torch.full((1, 5, 3, 1), -60.0, dtype=torch.float64)
        for voxel, group in enumerate(self.REST):
            sure[0, group, voxel] = 60

        assert_close(self.loss(sure, sure, labels), torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-4)

    def test_nothing_unknown_gives_no_gradient(self, logits):
        logits = logits.requires_grad_()
        self.loss(logits, logits.detach(), torch.ones(2, 6, 4, dtype=torch.long)).backward()

        assert not logits.grad.any()

    @pytest.mark.parametrize("annotated", [(), (1, 2, 3, 4), (0, 1), (5,)])
    def test_impossible_organ_sets_are_refused(self, logits, labels, annotated):
        with pytest.raises(ValueError, match="some but not all"):
            self.loss(logits, logits, labels, annotated)
