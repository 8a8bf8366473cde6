/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * libFuzzer's two entry points for a target in Cython: the module named by FUZZ_TARGET is imported once and says
 * where its function is; from then on no Python runs.
 */
#include <Python.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int (*target)(const uint8_t *data, size_t size);

static uintptr_t address_of(const char *name)
{
    PyObject *module = PyImport_ImportModule(name);
    PyObject *number = module ? PyObject_CallMethod(module, "entry", NULL) : NULL;
    uintptr_t address = number ? PyLong_AsSize_t(number) : 0;
    if (PyErr_Occurred()) {
        PyErr_Print();
        exit(2);
    }
    return address;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("FUZZ_TARGET");
    if (!name) {
        fprintf(stderr, "FUZZ_TARGET names no module\n");
        exit(2);
    }
    Py_InitializeEx(0);
    target = (int (*)(const uint8_t *, size_t))address_of(name);
    PyEval_SaveThread();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return target(data, size);
}
