import pytest
import torch

from serving.weight_updates.buckets import pack, unpack


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "embed": torch.randn(100, 8, generator=generator),
        "half": torch.randn(33, generator=generator).bfloat16(),
        "transposed": torch.randn(5, 7, generator=generator).t(),
        "scalar": torch.tensor(3),
        "flag": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4),
    }


@pytest.mark.parametrize("bucket_bytes", [1, 100, 1000, 1 << 20])
def test_buckets_hold_every_tensor_bit_for_bit(bucket_bytes: int) -> None:
    found: dict[str, torch.Tensor] = {}
    for bucket in pack(state(), bucket_bytes=bucket_bytes):
        found.update(unpack(bucket))
    assert list(found) == list(state())
    for name, tensor in state().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_a_bucket_stays_within_its_size_unless_one_tensor_is_larger() -> None:
    for bucket in pack(state(), bucket_bytes=300):
        assert bucket.data.nbytes <= 300 + 64 or len(bucket.entries) == 1
    assert len(list(pack(state(), bucket_bytes=1 << 20))) == 1


def test_unpacking_copies_nothing() -> None:
    bucket = next(pack({"a": torch.zeros(4)}, bucket_bytes=1 << 20))
    unpack(bucket)["a"][2] = 7
    assert bucket.data[8:12].view("float32")[0] == 7


def test_a_read_only_bucket_is_unpacked_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    bucket = next(pack({"a": torch.arange(4.0)}, bucket_bytes=1 << 20))
    bucket.data.setflags(write=False)
    assert unpack(bucket)["a"].tolist() == [0, 1, 2, 3]
    assert not recwarn.list


def test_a_dtype_without_a_place_in_the_format_is_refused() -> None:
    with pytest.raises(ValueError, match="complex64"):
        list(pack({"a": torch.zeros(2, dtype=torch.complex64)}, bucket_bytes=100))
