// Moves the strided runs of a transfer between an engine's KV memory and a dense buffer of the device: one launch per transfer.
//
// The same source is compiled three ways: by clang for the processors whose code objects are committed, by hiprtc at run time for
// others, and by a host compiler (KV_HOST) for the emulated runtime, where every load and store goes through `kv_at`. It includes no
// header and uses compiler builtins only, so that all three accept it.
//
// Workgroup (x, y, z) moves the part z of run x of section y. Threads take consecutive units, so that a wave's accesses are
// neighbours wherever runs are long. A unit is the widest of 16, 8, 4, 2 and 1 bytes that divides all lengths, strides and addresses of
// a nest; the host has found it out.

typedef unsigned char kv_u8;
typedef unsigned short kv_u16;
typedef unsigned int kv_u32;
typedef unsigned long long kv_u64;
typedef kv_u32 kv_u128 __attribute__((vector_size(16)));

// As kv-device-rocm/src/kernel/program.rs writes them: words of 8 bytes, little-endian.
struct KvDim {
    kv_u64 count;
    kv_u64 device_stride;
    kv_u64 section_stride;
};

struct KvNest {
    kv_u64 width;     // bytes of a unit
    kv_u64 per_run;   // units of a contiguous run
    kv_u64 units;     // units of the nest
    kv_u64 dim_count; // of which the first is the outermost
    KvDim dims[6];
};

struct KvRun {
    kv_u64 device;
    kv_u64 section;
    kv_u64 nest;
};

struct KvSection {
    kv_u64 device;  // address of the tensor's base
    kv_u64 dense;   // offset in the dense buffer
    kv_u64 first;   // its first run
    kv_u64 runs;    // and how many
};

#ifdef KV_HOST
#define KV_DEVICE static inline
// Where the host reaches device memory; never null: an address that is no memory is answered with a place to waste, and remembered.
extern "C" void *kv_at(kv_u64 address, kv_u64 bytes);
#define KV_TABLE const
template <typename T> KV_DEVICE KV_TABLE T *kv_table(kv_u64 address) { return (KV_TABLE T *)kv_at(address, sizeof(T)); }
template <typename T> KV_DEVICE T kv_load(kv_u64 address) { return *(const T *)kv_at(address, sizeof(T)); }
template <typename T> KV_DEVICE void kv_store(kv_u64 address, T value) { *(T *)kv_at(address, sizeof(T)) = value; }
#else
#define KV_DEVICE static inline __attribute__((device, always_inline))
#define KV_GLOBAL __attribute__((address_space(1)))
// What a launch never writes: one load serves a whole wave.
#define KV_TABLE const __attribute__((address_space(4)))
template <typename T> KV_DEVICE KV_TABLE T *kv_table(kv_u64 address) { return (KV_TABLE T *)address; }
template <typename T> KV_DEVICE T kv_load(kv_u64 address) { return *(const KV_GLOBAL T *)address; }
template <typename T> KV_DEVICE void kv_store(kv_u64 address, T value) { *(KV_GLOBAL T *)address = value; }
#endif

// Which thread this is: the workgroup's coordinates, the number in it, and the threads that share a run.
struct KvPlace {
    kv_u32 run, section, thread, threads;
};

template <bool SCATTER, typename T>
KV_DEVICE void kv_units(KV_TABLE KvNest *nest, kv_u64 device, kv_u64 dense, KvPlace place) {
    const kv_u32 per_run = (kv_u32)nest->per_run, units = (kv_u32)nest->units;
    const int dims = (int)nest->dim_count;
    for (kv_u64 unit = place.thread; unit < units; unit += place.threads) {
        kv_u32 rest = (kv_u32)unit / per_run;
        const kv_u64 within = (kv_u64)((kv_u32)unit - rest * per_run) * sizeof(T);
        kv_u64 a = device + within, b = dense + within;
        for (int d = dims - 1; d >= 0; --d) {
            const kv_u32 count = (kv_u32)nest->dims[d].count, next = rest / count, index = rest - next * count;
            a += index * nest->dims[d].device_stride;
            b += index * nest->dims[d].section_stride;
            rest = next;
        }
        if (SCATTER)
            kv_store<T>(a, kv_load<T>(b));
        else
            kv_store<T>(b, kv_load<T>(a));
    }
}

template <bool SCATTER>
KV_DEVICE void kv_move(kv_u64 nests, kv_u64 runs, kv_u64 sections, kv_u64 dense, KvPlace place) {
    KV_TABLE KvSection *section = kv_table<KvSection>(sections + place.section * sizeof(KvSection));
    if (place.run >= section->runs)
        return;
    KV_TABLE KvRun *run = kv_table<KvRun>(runs + (section->first + place.run) * sizeof(KvRun));
    KV_TABLE KvNest *nest = kv_table<KvNest>(nests + run->nest * sizeof(KvNest));
    const kv_u64 device = section->device + run->device, to = dense + section->dense + run->section;
    switch (nest->width) {
    case 16: kv_units<SCATTER, kv_u128>(nest, device, to, place); break;
    case 8: kv_units<SCATTER, kv_u64>(nest, device, to, place); break;
    case 4: kv_units<SCATTER, kv_u32>(nest, device, to, place); break;
    case 2: kv_units<SCATTER, kv_u16>(nest, device, to, place); break;
    default: kv_units<SCATTER, kv_u8>(nest, device, to, place); break;
    }
}

#ifdef KV_HOST
// A whole launch: every workgroup and thread, one after the other.
template <bool SCATTER>
static void kv_launch(const kv_u64 *arguments, const kv_u32 *grid, kv_u32 block) {
    for (kv_u32 z = 0; z < grid[2]; ++z)
        for (kv_u32 y = 0; y < grid[1]; ++y)
            for (kv_u32 x = 0; x < grid[0]; ++x)
                for (kv_u32 t = 0; t < block; ++t) {
                    const KvPlace place = {x, y, z * block + t, grid[2] * block};
                    kv_move<SCATTER>(arguments[0], arguments[1], arguments[2], arguments[3], place);
                }
}
extern "C" void kv_gather_on_host(const kv_u64 *arguments, const kv_u32 *grid, kv_u32 block) {
    kv_launch<false>(arguments, grid, block);
}
extern "C" void kv_scatter_on_host(const kv_u64 *arguments, const kv_u32 *grid, kv_u32 block) {
    kv_launch<true>(arguments, grid, block);
}
#else
#define KV_THREADS 256
#define KV_KERNEL(name, scatter)                                                                                       \
    extern "C" __attribute__((global, amdgpu_flat_work_group_size(KV_THREADS, KV_THREADS))) void name(                 \
        kv_u64 nests, kv_u64 runs, kv_u64 sections, kv_u64 dense, kv_u64 parts) {                                      \
        const KvPlace place = {__builtin_amdgcn_workgroup_id_x(), __builtin_amdgcn_workgroup_id_y(),                   \
                               __builtin_amdgcn_workgroup_id_z() * KV_THREADS + __builtin_amdgcn_workitem_id_x(),      \
                               (kv_u32)parts * KV_THREADS};                                                            \
        kv_move<scatter>(nests, runs, sections, dense, place);                                                         \
    }
KV_KERNEL(kv_gather, false)
KV_KERNEL(kv_scatter, true)
#endif
