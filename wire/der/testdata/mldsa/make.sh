#!/bin/sh
# Makes the files beside it with OpenSSL 3.5 or newer, an implementation of FIPS 204 and RFC 9881 that is not ours. They were made with
# OpenSSL 3.5.9 of Debian 13:
#
#   OPENSSL=/path/to/openssl ./make.sh
#
# The seed of the keys is that of the examples in RFC 9881, appendix C; signatures are hedged, so that they differ from run to run.
set -eu
cd "$(dirname "$0")"
openssl=${OPENSSL:-openssl}
seed=000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f

for set in 44 65; do
	$openssl genpkey -algorithm ML-DSA-$set -pkeyopt hexseed:$seed -provparam ml-dsa.output_formats=seed-only -out seed-$set.pem
	$openssl pkey -in seed-$set.pem -provparam ml-dsa.output_formats=seed-priv -out both-$set.pem
	$openssl pkey -in seed-$set.pem -provparam ml-dsa.output_formats=priv-only -out expanded-$set.pem
	$openssl pkey -in seed-$set.pem -pubout -out public-$set.pem
	$openssl req -new -key seed-$set.pem -subj "/O=Example/CN=pump-$set" -addext "subjectAltName=DNS:pump-$set.example" -out request-$set.pem
done
$openssl genpkey -algorithm ML-DSA-87 -pkeyopt hexseed:$seed -provparam ml-dsa.output_formats=seed-only -out seed-87.pem
$openssl pkey -in seed-87.pem -pubout -out public-87.pem

# Root ML-DSA-65, issuing CA ML-DSA-44, leaf ML-DSA-44; and an EC root over an ML-DSA leaf.
$openssl req -x509 -new -key seed-65.pem -subj "/O=Example/CN=Root" -days 36500 -addext "keyUsage=critical,keyCertSign,cRLSign" -out root.pem
$openssl genpkey -algorithm ML-DSA-44 -provparam ml-dsa.output_formats=seed-only -out ca.key
$openssl req -new -key ca.key -subj "/O=Example/CN=Issuing" -out ca.csr
printf 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' >ca.ext
$openssl x509 -req -in ca.csr -CA root.pem -CAkey seed-65.pem -days 36500 -extfile ca.ext -out issuing.pem
printf 'keyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n' >leaf.ext
$openssl x509 -req -in request-44.pem -CA issuing.pem -CAkey ca.key -days 36500 -extfile leaf.ext -out leaf.pem
$openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.key
$openssl req -x509 -new -key ec.key -subj "/O=Example/CN=EC Root" -days 36500 -addext "keyUsage=critical,keyCertSign,cRLSign" -out ec-root.pem
$openssl x509 -req -in request-65.pem -CA ec-root.pem -CAkey ec.key -days 36500 -extfile leaf.ext -out ec-leaf.pem
$openssl verify -x509_strict -CAfile root.pem -untrusted issuing.pem leaf.pem
$openssl verify -x509_strict -CAfile ec-root.pem ec-leaf.pem
rm -f ca.key ca.csr ca.ext leaf.ext ec.key
