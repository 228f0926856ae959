"""Settings that are right one by one, and get in each other's way."""

from __future__ import annotations

from collections.abc import Sequence

from worker.check.finding import Area, Check, Deployment, Finding, Kind, Severity

_JSONB_MEGABYTES = 255

SHUTDOWN_BELOW_STUCK = Kind(
    "settings-shutdown-below-stuck",
    Severity.WARNING,
    "While a handler does not return a stop cannot cancel it, and takes until the handler is found stuck.",
    "Set WORKER_STUCK_SECONDS no longer than WORKER_SHUTDOWN_SECONDS.",
)
CLAIM_BELOW_LINGER = Kind(
    "settings-claim-below-linger",
    Severity.WARNING,
    "Hints that only linger are taken over from replicas that are well, and work is done again.",
    "Set WORKER_CLAIM_AFTER_SECONDS well above WORKER_LINGER_MS.",
)
SWEEP_BELOW_LINGER = Kind(
    "settings-sweep-below-linger",
    Severity.WARNING,
    "The sweep finds streams behind that only linger, and queues them again.",
    "Set WORKER_SWEEP_SECONDS above WORKER_LINGER_MS.",
)
PAGE_BELOW_PAYLOAD = Kind(
    "settings-page-below-payload",
    Severity.WARNING,
    "A page holds whole events, so that memory is bounded by the larger of the two and not by the page.",
    "Set WORKER_PAGE_MEGABYTES no lower than WORKER_MAX_PAYLOAD_MEGABYTES.",
)
PAYLOAD_ABOVE_JSONB = Kind(
    "settings-payload-above-jsonb",
    Severity.WARNING,
    "PostgreSQL holds no JSON value over 255 MB: an event that is larger stops its stream, where a lower "
    "limit would have it rejected and passed over.",
    "Set WORKER_MAX_PAYLOAD_MEGABYTES to 255 or less.",
)


async def _look(of: Deployment) -> Sequence[Finding]:
    settings = of.settings
    linger_seconds = settings.linger.total_seconds()
    shutdown = f"WORKER_SHUTDOWN_SECONDS is {settings.shutdown_seconds:g}"
    claim = f"WORKER_CLAIM_AFTER_SECONDS is {settings.claim_after_seconds:g}"
    sweep = f"WORKER_SWEEP_SECONDS is {settings.sweep_seconds:g}"
    linger = f"WORKER_LINGER_MS is {settings.linger_ms:g}"
    page = f"WORKER_PAGE_MEGABYTES is {settings.page_megabytes:g}"
    payload = f"WORKER_MAX_PAYLOAD_MEGABYTES is {settings.max_payload_megabytes:g}"
    stuck = f"WORKER_STUCK_SECONDS is {settings.stuck_seconds:g}"
    conflicts = (
        (settings.shutdown_seconds < settings.stuck_seconds, SHUTDOWN_BELOW_STUCK, f"{shutdown}, {stuck}."),
        (settings.claim_after_seconds <= linger_seconds, CLAIM_BELOW_LINGER, f"{claim}, {linger}."),
        (settings.sweep_seconds <= linger_seconds, SWEEP_BELOW_LINGER, f"{sweep}, {linger}."),
        (settings.page_megabytes < settings.max_payload_megabytes, PAGE_BELOW_PAYLOAD, f"{page}, {payload}."),
        (settings.max_payload_megabytes > _JSONB_MEGABYTES, PAYLOAD_ABOVE_JSONB, f"{payload}."),
    )
    return [kind.found(what) for is_so, kind, what in conflicts if is_so]


CHECKS = (
    Check(
        "Settings fit each other",
        Area.SETTINGS,
        _look,
        (
            SHUTDOWN_BELOW_STUCK,
            CLAIM_BELOW_LINGER,
            SWEEP_BELOW_LINGER,
            PAGE_BELOW_PAYLOAD,
            PAYLOAD_ABOVE_JSONB,
        ),
    ),
)
