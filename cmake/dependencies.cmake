# The libraries the rooms link. tools/setup installs their packages on Debian and Ubuntu.
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(PkgConfig REQUIRED)
find_package(fmt REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)
pkg_check_modules(LZMA REQUIRED IMPORTED_TARGET liblzma)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(HWY REQUIRED IMPORTED_TARGET libhwy)
pkg_check_modules(OPENBLAS REQUIRED IMPORTED_TARGET openblas)

# yaml-cpp 0.7 exports a plain target name, later versions a namespaced one.
if(NOT TARGET yaml-cpp::yaml-cpp)
  add_library(yaml-cpp::yaml-cpp ALIAS yaml-cpp)
endif()

# Ranks: MPI between processes and NCCL between devices, each used where it is found. Whoever asks for
# one that is missing is told.
find_package(MPI QUIET COMPONENTS C)
option(VERNIER_MPI "Ranks over MPI (default: where MPI is found)" ${MPI_C_FOUND})
add_library(vernier_mpi INTERFACE)
if(VERNIER_MPI)
  find_package(MPI REQUIRED COMPONENTS C)
  target_link_libraries(vernier_mpi INTERFACE MPI::MPI_C)
  # mpi.h brings retired C++ bindings unless told not to.
  target_compile_definitions(vernier_mpi INTERFACE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  # What tests set for Open MPI, which starts no more ranks than processors and none as root unless told
  # to, which containers forbid to read other processes' memory, and whose library keeps memory to the
  # end.
  set(VERNIER_MPI_TEST_ENVIRONMENT
    OMP_NUM_THREADS=1
    OMPI_ALLOW_RUN_AS_ROOT=1
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    OMPI_MCA_rmaps_base_oversubscribe=1
    PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
    OMPI_MCA_btl_vader_single_copy_mechanism=none
    ASAN_OPTIONS=detect_leaks=0)
endif()

add_library(vernier_nccl INTERFACE)
if(VERNIER_CUDA)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR})
  set(nccl_found OFF)
  if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
    set(nccl_found ON)
  endif()
  option(VERNIER_NCCL "Devices talk over NCCL (default: where NCCL is found)" ${nccl_found})
  if(VERNIER_NCCL AND NOT nccl_found)
    message(FATAL_ERROR "VERNIER_NCCL needs nccl.h and libnccl: set NCCL_INCLUDE_DIR and NCCL_LIBRARY.")
  endif()
else()
  set(VERNIER_NCCL OFF)
endif()
if(VERNIER_NCCL)
  target_include_directories(vernier_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR})
  target_link_libraries(vernier_nccl INTERFACE ${NCCL_LIBRARY})
endif()

if(VERNIER_TESTS)
  find_package(GTest REQUIRED)
endif()
if(VERNIER_BENCHES)
  find_package(benchmark REQUIRED)
endif()
