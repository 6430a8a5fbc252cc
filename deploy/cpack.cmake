# Settings of the Debian packages; included by deploy/CMakeLists.txt.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME palu-server)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "Palu Server maintainers <palu-server@localhost>")
set(CPACK_PACKAGING_INSTALL_PREFIX ${CMAKE_INSTALL_PREFIX})
set(CPACK_COMPONENTS_ALL server model)
set(CPACK_COMPONENTS_GROUPING ONE_PER_GROUP)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)

set(CPACK_DEBIAN_SERVER_PACKAGE_NAME palu-server)
set(CPACK_DEBIAN_SERVER_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_SERVER_PACKAGE_SUGGESTS "palu-server-model-classics-14m, prometheus")
set(CPACK_DEBIAN_SERVER_PACKAGE_CONTROL_EXTRA
  "${CMAKE_CURRENT_SOURCE_DIR}/debian/conffiles;${CMAKE_CURRENT_SOURCE_DIR}/debian/postinst;${CMAKE_CURRENT_SOURCE_DIR}/debian/prerm;${CMAKE_CURRENT_SOURCE_DIR}/debian/postrm")
set(CPACK_COMPONENT_SERVER_DESCRIPTION
  "inference server for language models with a compressed KV cache
Serves Hugging Face checkpoints over an OpenAI-compatible HTTP interface and
gRPC. Keys and values are cached as low-rank latents, at 16 bits or quantized,
in pages that requests share.")

set(CPACK_DEBIAN_MODEL_PACKAGE_NAME palu-server-model-classics-14m)
set(CPACK_DEBIAN_MODEL_PACKAGE_ARCHITECTURE all)
set(CPACK_COMPONENT_MODEL_DESCRIPTION
  "small language model to try palu-server with
13.8 million parameters, trained on public-domain English prose.")

# Nothing in a package depends on when it was made.
if(NOT DEFINED ENV{SOURCE_DATE_EPOCH})
  find_program(GIT git)
  if(GIT AND EXISTS "${PROJECT_SOURCE_DIR}/.git")
    execute_process(COMMAND ${GIT} -C ${PROJECT_SOURCE_DIR} log -1 --format=%ct
      OUTPUT_VARIABLE epoch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  endif()
endif()
set(PALU_SOURCE_DATE_EPOCH "${epoch}")
configure_file(${CMAKE_CURRENT_LIST_DIR}/debian/epoch.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/epoch.cmake @ONLY)
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_CURRENT_BINARY_DIR}/epoch.cmake)
include(CPack)
