"""A mapping that grows by sharing is a dict that is copied at every change, and costs less."""

from hypothesis import given
from hypothesis import strategies as st

from fedsilo.audit.grown import Grown

CHANGES = st.lists(st.tuples(st.integers(0, 12), st.none() | st.integers()), max_size=60)


@given(CHANGES)
def test_every_version_is_the_dict_that_it_stands_for(changes):
    grown, plain, versions = Grown(), {}, []
    for key, value in changes:
        if value is None:
            grown, plain = grown.take_out(key), {known: entry for known, entry in plain.items() if known != key}
        else:
            grown, plain = grown.put(key, value), {**plain, key: value}
        versions.append((grown, plain))

    for made, expected in versions:
        assert dict(made) == expected
        assert made == expected
        assert len(made) == len(expected)
        assert [key in made for key in range(13)] == [key in expected for key in range(13)]


def test_an_entry_is_copied_about_log_n_times():
    copied, grown, num = 0, Grown(), 1 << 12
    for key in range(num):
        before, grown = grown, grown.put(key, key)
        copied += sum(len(layer) for layer in grown._layers if not any(layer is other for other in before._layers))

    assert len(grown) == num
    assert copied <= num * 13
