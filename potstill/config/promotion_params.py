"""Sections `gate`, `promote`, `sign`, `smoke`, `schedule` and `servers`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from potstill.config.base import Share, Strict

# From -1 to 1.
Signed = Annotated[float, Field(ge=-1, le=1)]


# A limit on a score that only some tasks have is named in `Kind.limits` of these tasks.
class Gate(Strict):
    """Limits that the candidate has to meet; null switches one off. A missing, NaN or infinite number fails."""

    min_score: Annotated[float, Field(le=1)] | None = None
    """Lowest score of the task: accuracy, micro F1 of several labels, R² of numbers, F1 of entities or of answers.
    null: any."""
    min_accuracy: Share | None = None
    """Lowest accuracy. null: any."""
    min_macro_f1: Share | None = None
    """Lowest mean F1 over the classes. null: any."""
    min_micro_f1: Share | None = None
    """Lowest F1 over all labels of all rows. null: any."""
    min_subset_accuracy: Share | None = None
    """Lowest share of rows in which every label is right. null: any."""
    max_mse: PositiveFloat | None = None
    """Highest mean squared error, in the numbers' unit squared. null: any."""
    max_mae: PositiveFloat | None = None
    """Highest mean absolute error, in the numbers' unit. null: any."""
    min_pearson: Signed | None = None
    """Lowest Pearson correlation with the gold numbers. null: any."""
    min_spearman: Signed | None = None
    """Lowest Spearman correlation with the gold numbers. null: any."""
    min_teacher_ratio: PositiveFloat | None = 0.97
    """Lowest ratio of the candidate's score to the teacher's on the test split. null: any."""
    min_teacher_ratio_lower: PositiveFloat | None = None
    """Lowest lower bound of that ratio's confidence interval. null: any."""
    min_gain_over_control: Signed | None = None
    """Lowest gain: the candidate's score minus that of the pretrained control. 0.01 of accuracy is one percentage
    point. null: any."""
    min_gain_over_control_upper: Signed | None = 0.0
    """Lowest upper bound of that gain's confidence interval. Below 0 the candidate is worse than the control beyond
    noise. null: any."""
    must_beat: list[Literal["pretrained", "initialised", "tfidf"]] = []
    """Models whose score the candidate has to be above beyond noise: controls of the proof, and TF-IDF with a linear
    model, which tasks about spans of a text do not have."""
    max_ece: Share | None = None
    """Highest expected calibration error. null: any."""
    max_file_mb: PositiveFloat | None = 20.0
    """Largest model file, in megabytes. null: any."""
    max_p99_ms: PositiveFloat | None = None
    """Highest 99th percentile of the latency of single texts, in milliseconds. It depends on the machine. null: any."""
    min_speedup: PositiveFloat | None = None
    """Lowest ratio of the candidate's throughput to the teacher's in its fastest form: as it is or quantized. null:
    any."""
    min_advantage: Annotated[float, Field(ge=1)] | None = None
    """How many times faster or smaller than the quantized teacher the candidate has to be, unless its score is better
    beyond noise. Else it is not worth its training and its loss. null: any."""
    max_loss_to_champion: Annotated[float, Field(ge=0, le=1)] | None = 0.005
    """How far the score may be below that of the champion, scored again on the same test split. null: any."""
    champion_test: Literal["points", "inferiority", "non_inferiority", "superiority"] = "points"
    """How the champion is compared on the same rows. points: the loss is at most max_loss_to_champion. inferiority: so
    is the lower end of its paired interval, so that only a loss beyond noise refuses. non_inferiority: so is the upper
    end. superiority: the whole interval of the gain is above 0."""
    min_slice_score: Annotated[float, Field(le=1)] | None = None
    """Lowest score on any slice of evaluate.slices that has enough rows. null: any."""
    max_slice_loss: Share | None = None
    """Largest loss of score on a slice on which a rival is better beyond noise, with the false-discovery rate held over
    all slices. 0: no such slice at all. null: any."""
    slice_rivals: list[Literal["champion", "teacher", "pretrained", "initialised"]] = ["champion"]
    """Rivals of max_slice_loss."""
    max_behaviour_failure: dict[str, Share] = {}
    """Highest failure rate of behavioural tests by name. The upper end of its interval is judged. {}: any."""
    min_coverage: Share | None = None
    """Lowest share of test texts that the model answers from the threshold of evaluate.abstention on. null: any."""
    require_clean_git: bool = False
    """Whether params.yaml, dvc.yaml and, where git tracks it, Potstill's code have to be as in the git commit, so that
    what ran is what was reviewed."""
    warn_test_uses: PositiveInt | None = 50
    """Evaluations on the same test split from which verdict and model card warn that it is worn out. null: no
    warning."""


class Promote(Strict):
    """Who makes a candidate that passed its gates the champion."""

    policy: Literal["auto", "person"] = "auto"
    """auto: it is promoted at once; person: it stays the challenger until somebody approves it."""


class Sign(Strict):
    """Signatures of candidate and Bento (OpenSSF Model Signing), and whether `potstill serve` asks for them."""

    private_key: str | None = None
    """PEM file of the elliptic-curve key that signs: P-256, P-384 or P-521, unencrypted, not in the repository. null:
    nothing is signed."""
    certificate: str | None = None
    """PEM file of the certificate of private_key, which goes into the signatures. null: they are verified by the public
    key."""
    certificate_chain: list[str] = []
    """PEM files of the authorities between certificate and a root."""
    require: bool = False
    """Whether `potstill serve` refuses a Bento, and a challenger that shadows it, without a signature that verifies."""
    public_key: str | None = None
    """PEM file of the public key that is trusted. null: trusted_certificates are."""
    trusted_certificates: list[str] = []
    """PEM files of the root certificates that are trusted."""

    @model_validator(mode="after")
    def _name_what_is_needed(self) -> Self:
        if self.private_key is None and (self.certificate or self.certificate_chain):
            raise ValueError("certificate is given, but private_key is null, so nothing is signed; name the key")
        if self.certificate_chain and self.certificate is None:
            raise ValueError("certificate_chain is given, but certificate is null; name the certificate")
        if self.public_key is not None and self.trusted_certificates:
            raise ValueError("public_key and trusted_certificates are both given; keep the one that signatures have")
        if self.require and self.public_key is None and not self.trusted_certificates:
            raise ValueError("require is true, but nothing says whom to trust; set public_key or trusted_certificates")
        return self


class Smoke(Strict):
    """The first run of the built Bento, which has to answer golden texts as they were evaluated."""

    texts: int = Field(32, ge=1)
    """Golden texts to answer."""
    tolerance: PositiveFloat = 1e-4
    """Largest difference between an answered probability and the evaluated one."""
    start_seconds: PositiveFloat = 60
    """Seconds that the service may take to start."""


class Schedule(Strict):
    """When a deployment runs, and how long a run and its parts may take."""

    cron: str = Field("0 3 * * 1", pattern=r"^\S+(\s+\S+){4}$")
    """When to run: minute, hour, day, month and weekday."""
    timezone: str = "UTC"
    """Time zone of cron, such as Europe/Berlin."""
    stage_minutes: PositiveFloat = 120
    """Minutes after which a stage is ended."""
    step_minutes: PositiveFloat = 60
    """Minutes after which another step is ended: the gate, which scores the champion again, package, smoke, register,
    promote and push."""
    run_minutes: PositiveFloat | None = None
    """Minutes after which a run is ended with the stage or step that is going on. null: only these have limits."""
    results_branch: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*$")
    """First part of the name of the branch to which a run pushes its results, for a workspace that each run clones.
    After its stages the run commits dvc.lock, pushes data to DVC's remote, then the commit. null: it pushes nothing."""
    pools: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    """Work pool of Prefect -> the stages that its workers run, such as `gpu: [teacher, signals, distill]`. Data moves
    through DVC's remote. All other stages, and those of the pool on which a run itself is, run where the run is."""
    wait_minutes: PositiveFloat = 10
    """Minutes that stages wait for a worker of their pool."""

    @model_validator(mode="after")
    def _one_pool_for_a_stage(self) -> Self:
        pool_of: dict[str, str] = {}
        for pool, stages in self.pools.items():
            for stage in stages:
                if stage in pool_of:
                    raise ValueError(f"pools names {stage} under {pool_of[stage]} and {pool}; keep one of them")
                pool_of[stage] = pool
        return self


def _without_password(url: str) -> str:
    """Refuse a user or a password in a URL: params are logged and registered."""
    if "@" in url:
        raise ValueError(
            "a URL with a user or a password does not belong here; credentials are variables of the environment "
            "(MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, PREFECT_API_AUTH_STRING)"
        )
    return url


ServerUrl = Annotated[str, Field(pattern=r"^https?://[^\s/]+"), AfterValidator(_without_password)]


class Servers(Strict):
    """Servers of a team, and the ports of those that `potstill up` starts here; the service's is `serve.port`."""

    mlflow_url: ServerUrl | None = None
    """URL of an MLflow server, unless MLFLOW_TRACKING_URI is set. null: a file in the workspace."""
    prefect_url: ServerUrl | None = None
    """URL of a Prefect server's API, which ends with /api, unless PREFECT_API_URL is set. null: each run starts one."""

    prefect_port: int = Field(4200, ge=1, le=65535)
    """Port of Prefect's API and pages."""
    mlflow_port: int = Field(5000, ge=1, le=65535)
    """Port of MLflow's pages."""
