"""What may leave the house under a protection: a copy that names no party, no seed, no score."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import fedfm
from fedfm.config import text
from fedfm.config.places import unplaced
from fedfm.config.record import to_config
from fedfm.laws.homes import pictures
from fedfm.ledger import file as ledger
from fedfm.pace import AllArrive, Link
from fedfm.running.record.public import PUBLIC, unseeded
from fedfm.trust.privacy.mechanism.gaussian import ClipNoise

EQUAL = fedfm.Mean(weights="equal", denominator=3.0)
NOISE = ClipNoise(1.0, 1.0)


def test_a_run_under_noise_leaves_a_copy_that_tells_of_nobody(tmp_path: Path) -> None:
    fed = pictures(select=fedfm.Poisson(rate=0.6), aggregate=EQUAL, uplink=NOISE, rounds=3)
    result = fedfm.run(fed, out=tmp_path / "run")
    public = result.folder / PUBLIC
    held = {p.relative_to(public).as_posix() for p in public.rglob("*") if p.is_file()}
    assert {"config.yaml", "events.jsonl", "summary.json", "report.html"} <= held
    assert any(name.startswith("model/") for name in held)
    parties = result.summary["parties"]
    for name in held:
        words = (public / name).read_bytes()
        assert not [i for i in parties if i.encode() in words], name
    assert "seed" not in text.load(public / "config.yaml")
    told = json.loads((public / "summary.json").read_text())
    assert told["privacy"]["epsilon"] == result.summary["privacy"]["epsilon"]
    assert not {"metric", "metrics", "parties", "baselines", "config_digest", "seed"} & told.keys()


def test_the_public_ledger_is_enough_to_compute_epsilon(tmp_path: Path) -> None:
    fed = pictures(select=fedfm.Poisson(rate=0.6), aggregate=EQUAL, uplink=NOISE, rounds=3)
    result = fedfm.run(fed, out=tmp_path / "run")
    from fedfm.trust.privacy.accountant import spent

    found = spent(ledger.read(result.folder / PUBLIC / "events.jsonl"))
    assert found is not None and found.epsilon == result.summary["privacy"]["epsilon"]


def test_without_a_protection_there_is_no_second_copy(tmp_path: Path) -> None:
    result = fedfm.run(pictures(rounds=1), out=tmp_path / "run")
    assert not (result.folder / PUBLIC).exists()


# ---- settings that name parties ---------------------------------------------------------------------------------
NAMED = pictures(
    pace=AllArrive(drop={"ward-7": "upload"}, links={"clinic-*": Link(latency_s=1.0), "*": Link()}),
    aggregate=fedfm.Mean(weights="equal", denominator=3.0, factors={"ward-8": 0.5}),
    select=fedfm.Poisson(rate=0.6),
    uplink=NOISE,
    rounds=2,
)


def test_where_nobody_may_know_who_took_part_no_setting_names_a_party() -> None:
    fed = replace(NAMED, stages=(replace(NAMED, rounds=1),))
    told = unseeded(to_config(fed), roster=False)
    said = text.dump(told)
    assert "ward-" not in said and "clinic-" not in said
    for one in (told, told["stages"][0]):
        assert one["pace"]["drop"] == {} == one["aggregate"]["factors"]
        assert list(one["pace"]["links"]) == ["*"]  # it names nobody
        assert one["aggregate"]["denominator"] == 3.0 and one["select"]["rate"] == 0.6


def test_names_of_tensors_stay_where_those_of_parties_go() -> None:
    fed = replace(NAMED, uplink=fedfm.ByPath({"conv*": NOISE, "*": NOISE}))
    assert list(unseeded(to_config(fed), roster=False)["uplink"]["rules"]) == ["conv*", "*"]


def test_where_it_is_known_who_took_part_settings_are_whole() -> None:
    told = unseeded(to_config(NAMED))
    assert told["pace"]["drop"] == {"ward-7": "upload"} and told["aggregate"]["factors"] == {"ward-8": 0.5}


class _Shy:
    def __repr__(self) -> str:
        return "asks ward-9"


@dataclass(frozen=True)
class _Own(fedfm.Mean):
    helper: object = None


def test_what_an_own_object_holds_or_prints_may_name_a_party_too() -> None:
    own = _Own(weights="equal", denominator=3.0, factors={"ward-8": 0.5}, helper=_Shy())
    told = unseeded(to_config(replace(NAMED, aggregate=own)), roster=False)
    assert "ward-" not in text.dump(told) and told["aggregate"].keys() == {"object"}


def test_the_copy_of_such_a_run_is_written_and_read(tmp_path: Path) -> None:
    noise = ClipNoise(1.0, 1.0, relation="add-or-remove")
    pace = AllArrive(links={"party-0": Link(latency_s=1.0), "*": Link()})
    own = _Own(weights="equal", denominator=3.0, factors={"party-1": 0.5, "*": 1.0}, helper=_Shy())
    fed = pictures(select=fedfm.Poisson(rate=0.6), aggregate=own, pace=pace, uplink=noise, rounds=1)
    public = fedfm.run(fed, out=tmp_path / "run").folder / PUBLIC
    for path in public.rglob("*"):
        if path.is_file():
            assert b"party-" not in path.read_bytes() and b"ward-" not in path.read_bytes(), path.name


def test_where_rows_and_models_lie_here_is_nobody_elses_business(tmp_path: Path) -> None:
    files = fedfm.Files(
        path=[f"{tmp_path}/ward/a.jsonl", "b/*.csv"], test_path=f"{tmp_path}/t.csv", labels=("x",)
    )
    config = to_config(replace(fedfm.recipe_of("quickstart"), data=files)) | {"stages": []}
    config["task"] |= {"start": f"{tmp_path}/adapter"}
    told = unplaced(config)
    assert str(tmp_path) not in text.dump(told)
    assert told["data"]["path"] == ["a.jsonl", "b/*.csv"] and told["data"]["test_path"] == "t.csv"
    assert told["task"] == config["task"] | {"start": "adapter"}  # a packaged model keeps its name
