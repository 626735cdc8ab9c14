import pytest
import torch

from avatarsync.selective_scan import (
    FourWayScan,
    segment_sums,
    selective_scan,
    selective_scan_chunked,
    selective_scan_sequential,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def inputs(length, batch=2, heads=4, channels=5, groups=2, state_size=3, dtype=torch.float64, device="cpu"):
    x = torch.randn(batch, length, heads, channels, dtype=dtype)
    dt = torch.nn.functional.softplus(torch.randn(batch, length, heads, dtype=dtype))
    A = -torch.rand(heads, dtype=dtype) * 4
    B, C = torch.randn(2, batch, length, groups, state_size, dtype=dtype)
    return tuple(tensor.to(device) for tensor in (x, dt, A, B, C))


def test_sequential_scan_is_the_recurrence_written_out():
    x, dt, A, B, C = inputs(4, batch=1, heads=1, channels=1, groups=1, state_size=1)
    state, outputs = 0.0, []
    for step in range(4):
        state = (dt[0, step, 0] * A[0]).exp() * state + dt[0, step, 0] * B[0, step, 0, 0] * x[0, step, 0, 0]
        outputs.append(C[0, step, 0, 0] * state)
    torch.testing.assert_close(selective_scan_sequential(x, dt, A, B, C).flatten(), torch.stack(outputs))


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 31, 32, 33, 50])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 8, 16, 32, 64])
def test_chunked_scan_equals_the_sequential_one(length, chunk_size):
    arguments = inputs(length)
    chunked = selective_scan_chunked(*arguments, chunk_size)
    torch.testing.assert_close(chunked, selective_scan_sequential(*arguments), rtol=0, atol=1e-10)


@pytest.mark.parametrize("heads, groups", [(1, 1), (4, 1), (4, 4), (6, 3)])
def test_heads_share_the_b_and_c_of_their_group(heads, groups):
    arguments = inputs(13, heads=heads, groups=groups)
    together = selective_scan_chunked(*arguments, 4)
    torch.testing.assert_close(together, selective_scan_sequential(*arguments), rtol=0, atol=1e-10)
    x, dt, A, B, C = arguments
    for head in range(heads):
        group = head * groups // heads
        alone = selective_scan_sequential(
            x[:, :, [head]], dt[:, :, [head]], A[[head]], B[:, :, [group]], C[:, :, [group]]
        )
        torch.testing.assert_close(together[:, :, [head]], alone, rtol=0, atol=1e-10)


def test_gradients_of_the_chunked_scan_equal_the_sequential_ones():
    arguments = [tensor.requires_grad_() for tensor in inputs(11)]
    weight = torch.randn(2, 11, 4, 5, dtype=torch.float64)
    chunked = torch.autograd.grad((selective_scan_chunked(*arguments, 4) * weight).sum(), arguments)
    sequential = torch.autograd.grad((selective_scan_sequential(*arguments) * weight).sum(), arguments)
    for one, other in zip(chunked, sequential, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_scan_is_causal():
    x, dt, A, B, C = inputs(20)
    before = selective_scan_chunked(x, dt, A, B, C, 6)
    x[:, 9] += 1
    changed = (selective_scan_chunked(x, dt, A, B, C, 6) - before).abs().amax((0, 2, 3)) > 0
    assert not changed[:9].any()
    assert changed[9]


@pytest.mark.parametrize("rate", [1e-8, 1e3])
def test_extreme_decay_stays_finite_and_exact(rate):
    x, dt, _, B, C = inputs(40, dtype=torch.float32)
    A = torch.full((4,), -rate)
    arguments = [tensor.requires_grad_() for tensor in (x, dt, A, B, C)]
    output = selective_scan_chunked(*arguments, 16)
    torch.testing.assert_close(output, selective_scan_sequential(*arguments), rtol=1e-4, atol=1e-4)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(output.sum(), arguments))


def test_segment_sums():
    values = torch.tensor([5.0, -1.0, 2.0, -4.0])
    expected = [[0, 0, 0, 0], [-1, 0, 0, 0], [1, 2, 0, 0], [-3, -2, -4, 0]]
    assert segment_sums(values).tolist() == expected


def test_segment_sums_do_not_cancel():
    values = torch.tensor([-1e7, -1e-3, -1e-3])  # as a difference of float32 prefix sums the last would be 0
    assert segment_sums(values)[2, 0].item() == pytest.approx(-2e-3, rel=1e-5)


def test_bfloat16_output_keeps_its_type():
    x, dt, A, B, C = inputs(20, dtype=torch.float32)
    exact = selective_scan_sequential(x, dt, A, B, C)
    rounded = selective_scan(x.bfloat16(), dt, A, B.bfloat16(), C.bfloat16(), 8)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_cpu_tensors_never_reach_the_triton_kernel(monkeypatch):
    def kernel(*_):
        raise AssertionError("the kernel was called with CPU tensors")

    monkeypatch.setattr("avatarsync.selective_scan._triton_chunk_scan", lambda: kernel)
    arguments = inputs(9)
    assert torch.equal(selective_scan(*arguments, 4), selective_scan_chunked(*arguments, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("length", [32, 50, 128])
def test_cuda_scan_equals_the_sequential_one(length):
    arguments = inputs(length, channels=64, state_size=16, dtype=torch.float32, device="cuda")
    fast = selective_scan(*arguments, 32)
    torch.testing.assert_close(fast, selective_scan_sequential(*arguments), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("grid_size", [1, 2, 3, 4, 8])
def test_every_scan_inverts(grid_size):
    scan = FourWayScan.of_grid(grid_size)
    length = 2 * grid_size**2
    tokens = torch.randn(3, length, 7)
    for direction in range(4):
        assert scan.permutations[:, direction].sort().values.tolist() == list(range(length))
    restored = scan.unscan(scan.scan(tokens))
    assert torch.equal(restored, tokens.unsqueeze(2).expand(-1, -1, 4, -1))
    own = torch.randn(3, length, 4, 7)
    assert torch.equal(scan.unscan(scan.scan_each(own)), own)
    assert torch.equal(scan.scan_each(scan.unscan(own)), own)


def test_scans_read_the_grid_as_they_say():
    # (row, column, frame) of every stored token of two 3 × 3 grids
    places = torch.cartesian_prod(torch.arange(3), torch.arange(3), torch.arange(2))
    rows, rows_back, columns, columns_back = FourWayScan.of_grid(3).scan(places.unsqueeze(0))[0].unbind(1)
    assert rows.tolist() == [[r, c, f] for r in range(3) for c in range(3) for f in range(2)]
    assert columns.tolist() == [[r, c, f] for c in range(3) for r in range(3) for f in range(2)]
    assert torch.equal(rows_back, rows.flip(0))
    assert torch.equal(columns_back, columns.flip(0))
