find_package(Threads REQUIRED)
find_package(OpenSSL 3 REQUIRED)
find_package(Protobuf REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(Boost 1.81 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(SYSTEMD REQUIRED libsystemd)
pkg_check_modules(SECP256K1 REQUIRED libsecp256k1)

# Debian has no static libfmt, and dstack-guest and dstack-kms are static: fmt is used through its headers, with
# its implementation compiled once (src/base/fmt_impl.cpp).
add_library(fmt_headers INTERFACE)

add_library(boost INTERFACE)
target_include_directories(boost SYSTEM INTERFACE ${Boost_INCLUDE_DIRS})
target_compile_definitions(boost INTERFACE BOOST_ASIO_NO_DEPRECATED BOOST_ERROR_CODE_HEADER_ONLY)

add_library(tomlplusplus INTERFACE)
add_library(cli11 INTERFACE)

# Plain names, so that the linker takes the archive for static programs and the shared library for the rest.
add_library(secp256k1 INTERFACE)
target_link_libraries(secp256k1 INTERFACE -lsecp256k1)
add_library(systemd INTERFACE)
target_link_libraries(systemd INTERFACE -lsystemd)
# As needed: only a program that unpacks archives (dstackup) gets libarchive.
add_library(archive INTERFACE)
target_link_libraries(archive INTERFACE -Wl,--push-state,--as-needed -larchive -Wl,--pop-state)
add_library(openssl_crypto INTERFACE)
target_link_libraries(openssl_crypto INTERFACE -lcrypto)
add_library(openssl_ssl INTERFACE)
target_link_libraries(openssl_ssl INTERFACE -lssl -lcrypto)
add_library(yaml INTERFACE)
target_link_libraries(yaml INTERFACE -lyaml-cpp)
