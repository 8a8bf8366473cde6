"""The compiler's atomic operations, for the few words that two threads share."""
from libc.stdint cimport int32_t, int64_t

cdef extern from * nogil:
    """
    static inline int32_t xenvbd_add32(int32_t *word, int32_t n)
    { return __atomic_add_fetch(word, n, __ATOMIC_ACQ_REL); }
    static inline int32_t xenvbd_load32(int32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
    static inline void xenvbd_store32(int32_t *word, int32_t n)
    { __atomic_store_n(word, n, __ATOMIC_RELEASE); }
    static inline int64_t xenvbd_add64(int64_t *word, int64_t n)
    { return __atomic_add_fetch(word, n, __ATOMIC_ACQ_REL); }
    static inline int64_t xenvbd_load64(int64_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
    static inline void xenvbd_store64(int64_t *word, int64_t n)
    { __atomic_store_n(word, n, __ATOMIC_RELEASE); }
    """
    int32_t add32 "xenvbd_add32" (int32_t *word, int32_t n)          # the new value
    int32_t load32 "xenvbd_load32" (int32_t *word)
    void store32 "xenvbd_store32" (int32_t *word, int32_t n)
    int64_t add64 "xenvbd_add64" (int64_t *word, int64_t n)
    int64_t load64 "xenvbd_load64" (int64_t *word)
    void store64 "xenvbd_store64" (int64_t *word, int64_t n)
