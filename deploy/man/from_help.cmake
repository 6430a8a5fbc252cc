# A manual page that is a program's own --help, so that it is always true.
#   cmake -DTOOL=program -DNAME=name -DVERSION=… -DOUTPUT=page -P from_help.cmake
execute_process(COMMAND ${TOOL} --help OUTPUT_VARIABLE help COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE "${TOOL}" "${NAME}" help "${help}")
string(REPLACE "\\" "\\e" help "${help}")
string(REPLACE "-" "\\-" help "${help}")
string(REGEX REPLACE "(^|\n)([.'])" "\\1\\\\&\\2" help "${help}")
string(REPLACE "-" "\\-" name "${NAME}")
file(WRITE ${OUTPUT} ".TH ${NAME} 1 \"\" \"palu-server ${VERSION}\"
.SH NAME
${name} \\- tool of Palu Server
.SH DESCRIPTION
What \\fB${name} \\-\\-help\\fR says:
.PP
.nf
${help}
.fi
.SH SEE ALSO
.BR palu\\-server (1)
")
