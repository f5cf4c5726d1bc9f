# Compiler settings every target shares. Warnings are errors; floating point is IEEE everywhere.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

add_library(vernier_options INTERFACE)
target_compile_options(vernier_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror -fno-math-errno>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers>
  $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>
  # Designated initializers leave out members that have defaults.
  $<$<COMPILE_LANGUAGE:CXX>:-Wno-missing-field-initializers>
  # g++ 12 warns of copies inside std::string that overlap or end behind it, where none does (GCC bug 105651):
  # of the latter once precompiled headers hide that they are the library's own.
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-restrict;-Wno-stringop-overflow;-Wno-array-bounds>)
target_include_directories(vernier_options INTERFACE ${CMAKE_SOURCE_DIR}/src)

# Test programs are half of all files, and what takes time in them is in the libraries.
set(VERNIER_TEST_FLAGS -O1)
# For the rooms in whose loops the tests' time goes.
set(VERNIER_LOOP_FLAGS $<$<CONFIG:Debug>:-O1>)

if(VERNIER_SANITIZE)
  set(VERNIER_TEST_FLAGS -O0)
  # Debug information for line numbers alone, which halves the compiler's time. -Og takes a third less
  # to compile than -O1; the rooms of loops, twice as slow under it, ask for -O1 themselves.
  set(CMAKE_CXX_FLAGS_DEBUG "-g1 -Og")
  target_compile_options(vernier_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined -fno-sanitize-recover=undefined
    -fno-omit-frame-pointer>
    # At every access, and a quarter of the compiler's time: the address sanitizer finds what they would.
    $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize=null,object-size,vptr>)
  target_link_options(vernier_options INTERFACE -fsanitize=address,undefined)
endif()

if(VERNIER_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "VERNIER_FUZZ needs clang: libFuzzer is a part of it. Use the preset fuzz.")
  endif()
  # Everything counts its branches for the fuzzer; only a fuzz target links its main().
  target_compile_options(vernier_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-O1 -fsanitize=fuzzer-no-link,address,undefined
    -fno-sanitize-recover=undefined -fno-omit-frame-pointer>)
  target_link_options(vernier_options INTERFACE -fsanitize=address,undefined)
endif()

if(VERNIER_CUDA)
  # One machine's own: -DVERNIER_CUDA_ARCHITECTURES=90a-real halves the build.
  set(VERNIER_CUDA_ARCHITECTURES "90a-real;100a-real" CACHE STRING "Architectures of CUDA code")
  set(CMAKE_CUDA_ARCHITECTURES ${VERNIER_CUDA_ARCHITECTURES})
  enable_language(CUDA)
  set(CMAKE_CUDA_STANDARD 20)
  # CMake 3.25 does not know that nvcc 13 speaks C++20.
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  find_package(CUDAToolkit 13.0 REQUIRED)
endif()
