"""What pytest leaves out: modules that need what is not installed here."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("triton") else ["convexrecon/convex/fused_kernels.py"]
