# hora_leave_out(<what and why>): says that a part is not built, now and in <build>/left_out.txt,
# which `make test` shows in the end: what was not built was not tested either.
include_guard(GLOBAL)
set(HORA_LEFT_OUT "${PROJECT_BINARY_DIR}/left_out.txt")
file(WRITE "${HORA_LEFT_OUT}" "")

function(hora_leave_out text)
  message(STATUS "hora: ${text}")
  file(APPEND "${HORA_LEFT_OUT}" "${text}\n")
endfunction()
