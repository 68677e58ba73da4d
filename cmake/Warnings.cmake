# Warnings, hardening and sanitizers, for every target.
add_compile_definitions(_GNU_SOURCE VMFERRY_VERSION="${PROJECT_VERSION}")
add_compile_options(
  -Wall -Wextra -Wshadow -Wvla -Wformat=2 -Wconversion -Wmissing-prototypes -Wstrict-prototypes -Wcast-qual -Wundef
  -Wnull-dereference -Wswitch-enum -Werror
  -fstack-protector-strong -fno-strict-aliasing)
include_directories(${PROJECT_SOURCE_DIR})
include(CheckPIESupported)
check_pie_supported(LANGUAGES C)

# Invariants are asserted in every build.
foreach(config DEBUG RELWITHDEBINFO RELEASE MINSIZEREL)
  string(REPLACE "-DNDEBUG" "" CMAKE_C_FLAGS_${config} "${CMAKE_C_FLAGS_${config}}")
endforeach()

if(VMFERRY_SANITIZE)
  add_compile_options(-fsanitize=${VMFERRY_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -O1)
  add_link_options(-fsanitize=${VMFERRY_SANITIZE})
  # These follow values through the code, which gcc's sanitizers change: they guess there, and are trusted elsewhere.
  add_compile_options(-Wno-null-dereference)
  if(CMAKE_C_COMPILER_ID STREQUAL GNU)
    add_compile_options(-Wno-format-truncation -Wno-maybe-uninitialized)
  endif()
else()
  add_compile_options(-O2 -fstack-clash-protection $<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=3>)
  add_link_options(-Wl,-z,relro,-z,now)
endif()
if(VMFERRY_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

# A static library of every .c in its folder, with the folders it may see.
function(vmferry_library name)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  if(NOT sources) # nothing written yet: an archive of nothing, so that the targets and their arrows exist
    file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/${name}-empty.c CONTENT "extern int ${name}_is_empty;\n")
    set(sources ${CMAKE_CURRENT_BINARY_DIR}/${name}-empty.c)
  endif()
  add_library(${name} STATIC ${sources})
  target_link_libraries(${name} PUBLIC ${ARGN})
endfunction()
