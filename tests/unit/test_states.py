import json

import pytest
import safetensors
import torch
from torch import nn

from fedsilo.errors import CheckpointError, OutputError, StateMismatchError
from fedsilo.federation import states


class TiedNetwork(nn.Module):
    """Lists one layer under two names, as MONAI's DynUNet does, and holds every kind of buffer."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(1, 2, 1)
        self.again = self.down
        self.norm = nn.BatchNorm2d(2)
        self.instance = nn.InstanceNorm2d(2, track_running_stats=True)
        self.register_buffer("window", torch.ones(2))
        self.register_buffer("seen", torch.tensor(3))


class WithExtraState(nn.Linear):
    def get_extra_state(self):
        return {"secret": 1}


def header(path):
    content = path.read_bytes()
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def test_snapshot_lists_parameters_and_buffers_and_aliases_nothing():
    network = TiedNetwork()

    state = states.snapshot(network)

    assert state.keys() == network.state_dict().keys()
    assert not any(tensor.requires_grad for tensor in state.values())
    addresses = [tensor.data_ptr() for tensor in [*state.values(), *network.state_dict().values()]]
    assert len(set(addresses)) == len(state) + len({tensor.data_ptr() for tensor in network.state_dict().values()})


def test_snapshot_stays_when_the_network_trains_on():
    network = TiedNetwork()
    state = states.snapshot(network)
    before = states.digest(state)

    network.norm(torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        network.down.weight.add_(1)

    assert states.digest(state) == before
    assert states.digest(states.snapshot(network)) != before


def test_snapshot_makes_memory_layout_irrelevant():
    network = nn.Conv2d(3, 4, 3)
    before = states.digest(states.snapshot(network))

    assert states.digest(states.snapshot(network.to(memory_format=torch.channels_last))) == before


def test_what_is_no_tensor_is_refused():
    with pytest.raises(StateMismatchError, match="_extra_state"):
        states.snapshot(WithExtraState(1, 1))


def test_restore_gives_back_a_snapshot_of_tied_layers_too():
    network, other = TiedNetwork(), TiedNetwork()
    state = states.snapshot(network)

    states.restore(other, state)

    assert states.digest(states.snapshot(other)) == states.digest(state)
    assert other.again.weight is other.down.weight
    assert other.down.weight.data_ptr() != state["down.weight"].data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("norm.bias"), "differs in 1 entries: lacks norm.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "has unknown extra"),
        (lambda state: state.update(window=torch.ones(3)), r"window is float32 \(3,\), expected float32 \(2,\)"),
        (lambda state: state.update(seen=torch.tensor(3.0)), r"seen is float32 \(\), expected int64 \(\)"),
    ],
)
def test_restore_refuses_another_state_and_leaves_the_network_alone(change, message):
    network = TiedNetwork()
    state = {name: tensor + 1 for name, tensor in states.snapshot(network).items()}
    before = states.digest(states.snapshot(network))
    change(state)

    with pytest.raises(StateMismatchError, match=message):
        states.restore(network, state)

    assert states.digest(states.snapshot(network)) == before


def test_a_mismatch_names_three_entries_and_counts_all():
    reference = {name: torch.zeros(1) for name in "abcde"}

    with pytest.raises(StateMismatchError) as refusal:
        states.check_same(reference, {}, "update of 'mr-a'")

    assert str(refusal.value) == "update of 'mr-a' differs in 5 entries: lacks a; lacks b; lacks c"


def test_roles_follow_the_type_of_the_module():
    assert states.roles(TiedNetwork()) == {
        "window": "buffer",
        "seen": "counter",
        "down.weight": "parameter",
        "down.bias": "parameter",
        "again.weight": "parameter",
        "again.bias": "parameter",
        "norm.weight": "parameter",
        "norm.bias": "parameter",
        "norm.running_mean": "norm_mean",
        "norm.running_var": "norm_variance",
        "norm.num_batches_tracked": "counter",
        "instance.running_mean": "norm_mean",
        "instance.running_var": "norm_variance",
        "instance.num_batches_tracked": "counter",
    }


def test_roles_are_not_guessed_from_names():
    network = nn.Module()
    network.register_buffer("running_mean", torch.zeros(2))

    assert states.roles(network) == {"running_mean": "buffer"}


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"seen": "counter"}, "1 entries have no role: w"),
        ({"seen": "counter", "w": "counter"}, r"w is float32 \(2,\), role counter"),
        ({"seen": "buffer", "w": "buffer"}, r"seen is int64 \(\), role buffer"),
    ],
)
def test_roles_must_cover_and_fit_a_state(roles, message):
    state = {"w": torch.zeros(2), "seen": torch.tensor(1)}

    with pytest.raises(StateMismatchError, match=message):
        states.weighted_average([state], [1.0], roles)


def test_a_variance_without_its_mean_cannot_be_pooled():
    with pytest.raises(StateMismatchError, match=r"lack norm\.running_mean"):
        states.weighted_average([{"norm.running_var": torch.ones(1)}], [1.0], {"norm.running_var": "norm_variance"})


def test_nothing_has_no_average():
    with pytest.raises(StateMismatchError, match="got none, expected at least one"):
        states.weighted_average([], [], {})


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_must_be_weights(weights):
    state = {"w": torch.zeros(1)}

    with pytest.raises(ValueError, match="expected 2 finite non-negative weights"):
        states.weighted_average([state, state], weights, {"w": "parameter"})


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan")])
def test_momentum_is_a_share(momentum):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        states.lerp({"w": torch.zeros(1)}, {"w": torch.zeros(1)}, momentum)


class TestFile:
    @pytest.fixture
    def state(self):
        numbers = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
        return {
            "z.weight": numbers,
            "a.transposed": numbers.t(),
            "half": numbers.to(torch.bfloat16),
            "double": numbers.double(),
            "count": torch.tensor(7),
            "flags": torch.tensor([True, False]),
            "nothing": torch.zeros(0, 3),
        }

    def test_a_state_comes_back_as_it_was(self, state, tmp_path):
        sha256 = states.save(state, tmp_path / "deep" / "state.safetensors")

        loaded = states.load(tmp_path / "deep" / "state.safetensors", sha256)

        assert list(loaded) == sorted(state)
        assert states.digest(loaded) == states.digest(state)
        assert all(torch.equal(loaded[name], state[name]) and loaded[name].dtype == state[name].dtype for name in state)

    def test_equal_states_give_equal_bytes(self, state, tmp_path):
        metadata = {key: key * 2 for key in "qwertyuiop"}

        first = states.save(state, tmp_path / "first", metadata)
        again = states.save(dict(reversed(state.items())), tmp_path / "again", dict(reversed(metadata.items())))

        assert first == again
        assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()
        assert list(header(tmp_path / "first")["__metadata__"]) == sorted(metadata)

    def test_the_file_is_plain_safetensors(self, state, tmp_path):
        states.save(state, tmp_path / "state", {"näme": "wärt"})

        with safetensors.safe_open(tmp_path / "state", framework="pt") as opened:
            assert opened.metadata() == {"näme": "wärt"}
            assert torch.equal(opened.get_tensor("a.transposed"), state["a.transposed"])

    def test_entries_that_share_memory_are_stored_one_by_one(self, tmp_path):
        network = TiedNetwork()

        states.save(network.state_dict(), tmp_path / "state")

        assert states.load(tmp_path / "state").keys() == network.state_dict().keys()

    def test_another_hash_is_refused(self, state, tmp_path):
        states.save(state, tmp_path / "state")

        with pytest.raises(CheckpointError, match=f"{tmp_path}/state has SHA-256 .*, expected 00"):
            states.load(tmp_path / "state", "00")

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(CheckpointError, match=f"cannot read {tmp_path}/absent: No such file"):
            states.load(tmp_path / "absent")

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda content: b"",
            lambda content: content[:-1],
            lambda content: content[:20],
            lambda content: content + b"more",
            lambda content: b"\xff" * 40,
            lambda content: content.replace(b'"F32"', b'"F99"'),
            lambda content: b"PK\x03\x04" + content,
        ],
        ids=["empty", "cut off", "header cut off", "longer", "noise", "unknown dtype", "a zip, as pickled checkpoints are"],
    )
    def test_a_spoilt_file_is_refused_in_one_line(self, spoil, state, tmp_path):
        path = tmp_path / "state"
        states.save(state, path)
        path.write_bytes(spoil(path.read_bytes()))

        with pytest.raises(CheckpointError, match=f"cannot use {path} as safetensors") as refusal:
            states.load(path)

        assert "\n" not in str(refusal.value)

    def test_a_folder_that_cannot_be_made_is_named(self, state, tmp_path):
        (tmp_path / "file").write_text("in the way")

        with pytest.raises(OutputError, match="cannot write"):
            states.save(state, tmp_path / "file" / "state")

    def test_saving_modifies_nothing(self, state, tmp_path):
        before = states.digest(state)

        states.save(state, tmp_path / "state")

        assert states.digest(state) == before
