"""The same path on a CUDA device; skipped where there is none."""

from dataclasses import replace

import pytest
import torch

from backend.api import Studio
from backend.checkpoints.reader import open_source
from backend.checkpoints.resolve import resolve
from backend.inference.decode import Decoding, greedy
from backend.inference.model import load, pick_device
from backend.merging.resident import ResidentPair
from backend.registry import methods
from backend.types import RunStatus
from tests import golden, tiny
from tests.worlds import tiny_world

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def cuda(settings):
    return replace(settings, device="cuda")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_and_dtype_loads_and_follows_lambda(cuda, family, dtype):
    aligned = tiny.folder(cuda.models_root / "aligned", family, dtype=dtype)
    tiny.folder(cuda.models_root / "tuned", family, dtype=dtype, seed=1, near=aligned)
    first, second = (resolve(name, cuda) for name in ("aligned", "tuned"))
    responder = load(first, device=pick_device("cuda"))
    assert responder.model.dtype is dtype
    pairs = {
        device: ResidentPair(open_source(first), open_source(second, first), device=device)
        for device in ("cuda", "cpu")
    }
    for lam in (0.0, 0.3, 1.0):
        on_gpu = responder.parameters()
        effective = pairs["cuda"].write_into(on_gpu, methods.get("linear"), {"lam": lam})
        on_cpu = {name: torch.empty_like(tensor, device="cpu") for name, tensor in on_gpu.items()}
        pairs["cpu"].write_into(on_cpu, methods.get("linear"), {"lam": lam})
        assert effective["projection"] == pytest.approx(lam, abs=2e-2)
        for name, tensor in on_gpu.items():
            one_step = torch.finfo(dtype).eps * tensor.abs().max().item()
            assert (tensor.cpu().float() - on_cpu[name].float()).abs().max().item() <= one_step, name


def test_greedy_answers_in_fp32_equal_generate_and_drafts_change_nothing():
    torch.manual_seed(0)
    model = tiny.model("llama", hidden=64).cuda()
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(5, 160, (n,), generator=draw).tolist() for n in (3, 9, 17, 30, 5, 12)]
    decoding = Decoding(16, frozenset({1}), 0, 4)
    answers = greedy(model, prompts, decoding)
    for prompt, answer in zip(prompts, answers, strict=True):
        written = model.generate(torch.tensor([prompt]).cuda(), max_new_tokens=16, do_sample=False, pad_token_id=0)
        assert tuple(written[0, len(prompt) :].tolist())[: len(answer.tokens)] == answer.tokens
    assert greedy(model, prompts, decoding, drafts=[answer.tokens[:7] for answer in answers]) == answers


def test_a_sweep_runs_on_the_gpu_from_queue_to_points(cuda):
    world = tiny_world(cuda)
    studio = Studio(cuda)
    run = studio.wait(studio.submit("sweep", world | {"tuned": "lora"}).id)
    assert run.status is RunStatus.DONE, run.error
    points = studio.points([run.id])
    assert len(points) == 3
    assert points[0].details["device"].startswith("cuda")
    studio.close()


def test_a_merge_to_disk_on_the_gpu_is_the_cpus_within_a_rounding(tmp_path):
    models = {role: golden.write(tmp_path / role, number) for number, role in enumerate(golden.ROLES)}
    for number, (label, method, count) in enumerate(golden.cases()):
        written = {
            device: golden.merged(method, count, models, tmp_path / f"{device}{number}", device=device)
            for device in ("cpu", "cuda")
        }
        for name, tensor in written["cpu"].items():
            step = torch.finfo(tensor.dtype).eps * tensor.abs().max().item()
            assert (tensor.float() - written["cuda"][name].float()).abs().max().item() <= 2 * step, (label, name)
