"""`python -m xenvbd.frontend`: a guest process."""
import sys

from xenvbd.frontend.guest import main

sys.exit(main())
