"""What every engine must do, on every kind of file: one specification."""
import errno
import os
import random
import time

import pytest

from disk_help import FILE_ENGINES, MIB, make_image
