"""Writes random secrets/*.env, which only you can read, for compose.yaml and for the Secrets of kubernetes.yaml.

python cluster/mlflow/make_secrets.py     # once; existing files stay
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "secrets"


def make() -> dict[str, dict[str, str]]:
    """Service -> its variables, drawn anew in each call. Variables that two services share have equal values."""
    database, access, key = secrets.token_hex(32), f"GK{secrets.token_hex(16)}", secrets.token_hex(32)
    return {
        "mlflow": {
            "PGPASSWORD": database,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
            "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.token_hex(16),
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": key,
        },
        "postgres": {"POSTGRES_PASSWORD": database},
        "garage": {
            "GARAGE_RPC_SECRET": secrets.token_hex(32),
            "GARAGE_DEFAULT_ACCESS_KEY": access,
            "GARAGE_DEFAULT_SECRET_KEY": key,
        },
    }


def main(folder: Path = FOLDER) -> int:
    """Write them; 2 where there are some: a new password opens no old database."""
    if folder.exists():
        print(
            f"error: {folder} exists: these are the passwords of what runs; remove both to begin anew", file=sys.stderr
        )
        return 2
    folder.mkdir(mode=0o700)
    for service, variables in make().items():
        descriptor = os.open(folder / f"{service}.env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"{name}={value}\n" for name, value in variables.items())
        print(f"written: {folder / service}.env")
    return 0


if __name__ == "__main__":
    sys.exit(main())
