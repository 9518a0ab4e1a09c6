"""The arrays that data sets hand out; in a module of their own, which every data set can import."""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]
