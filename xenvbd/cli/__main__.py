"""`python -m xenvbd.cli`: the same as the xenvbd command."""
import sys

from xenvbd.cli import main

sys.exit(main())
