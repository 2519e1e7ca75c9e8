"""Jupyter kernels that are forks of the server of `cfnsr.warm`."""

import os
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

from cfnsr import warm


class WarmProvisioner(LocalProvisioner):
    """Starts a kernel as a fork; everything else is as for a kernel of its own process.

    Chosen by the environment variable JUPYTER_DEFAULT_PROVISIONER_NAME=cfnsr-warm, which
    `cfnsr.notebook` sets for its own notebooks alone; JupyterLab's kernels stay ordinary.
    """

    process: Any = None  # a warm.Process in place of a subprocess.Popen

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        connection_file = cmd[cmd.index("-f") + 1]
        environment = kwargs.get("env") or dict(os.environ)
        self.process = warm.Process(
            "cfnsr.warm_kernel:main", ["--quiet", "-f", connection_file], environment
        )
        self.pid = self.pgid = self.process.pid
        self.cwd = kwargs.get("cwd", Path.cwd())
        return self.connection_info


def main(arguments: list[str]) -> None:
    """Be a kernel (in the fork)."""
    import pandas as pd
    from ipykernel.kernelapp import IPKernelApp

    # What pandas would have chosen, had it been imported in a kernel: so tables look alike in both.
    pd.set_option("display.max_columns", 20)
    IPKernelApp.launch_instance(arguments)
