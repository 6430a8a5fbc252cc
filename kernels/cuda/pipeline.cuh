// Barriers in shared memory between warps that copy and warps that compute (PTX mbarrier), copies
// by the copy engine, and register budgets by role.
#pragma once

#include <cstdint>

namespace palu::cuda {

// A barrier is 8 bytes of shared memory, named by its shared address; it completes a phase after
// `arrivals` arrivals.
__device__ inline void InitBarrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(barrier), "r"(arrivals)
               : "memory");
}

// Makes initialized barriers visible; before the block's first synchronization.
__device__ inline void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

__device__ inline void Arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}

// Arrives once all asynchronous copies that this thread has issued are done.
__device__ inline void ArriveAfterCopies(uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(barrier) : "memory");
}

// Waits until the phase of this parity is complete.
__device__ inline void WaitBarrier(uint32_t barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "WAIT:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra WAIT;\n"
      "DONE:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// One copy of `bytes` (a multiple of 16) by the copy engine, counted by the barrier's phase, which
// this thread has yet to arrive at.
__device__ inline void CopyBulk(uint32_t dst, const void* src, int bytes, uint32_t barrier) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;\n" ::"r"(barrier),
               "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::
          "r"(dst),
      "l"(src), "r"(bytes), "r"(barrier)
      : "memory");
}

// Orders this thread's ordinary stores to shared memory before later bulk copies to the same place.
__device__ inline void FenceBulkCopies() {
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

// Asks for the line at p to be brought into the second-level cache.
__device__ inline void PrefetchLine(const void* p) {
  asm volatile("prefetch.global.L2 [%0];\n" ::"l"(p));
}

// Synchronizes some of the block's threads; id 1 to 15.
__device__ inline void SyncThreads(int id, int threads) {
  asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

// Registers per thread from here on, for a whole warpgroup. Devices before Hopper have no such
// instruction: there the launch bound holds for all.
template <int kRegisters>
__device__ inline void GiveRegisters() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
#endif
}

template <int kRegisters>
__device__ inline void TakeRegisters() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kRegisters));
#endif
}

}  // namespace palu::cuda
