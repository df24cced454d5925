package esttest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"net/http"

	"mooring/wire/cms"
	"mooring/wire/der"
	"mooring/wire/est"
)

// enrol answers both kinds of enrolment.
func (s *Server) enrol(op est.Operation, r *http.Request) (status int, contentType string, content []byte) {
	if reason := s.authenticate(op, r); reason != "" {
		return http.StatusUnauthorized, "", []byte(reason)
	}
	request, err := readRequest(r)
	if err != nil {
		return http.StatusBadRequest, "", []byte(err.Error())
	}
	if reason := s.checkBinding(request, r); reason != "" {
		return http.StatusBadRequest, "", []byte(reason)
	}
	if op == est.SimpleReenroll && string(r.TLS.PeerCertificates[0].RawSubject) != string(request.RawSubject) {
		return http.StatusBadRequest, "", []byte("the subject is not that of the certificate to be renewed")
	}
	s.requests = append(s.requests, request)
	cert, err := s.issue(request)
	if err != nil {
		return http.StatusInternalServerError, "", []byte(err.Error())
	}
	message, err := cms.CertsOnly([][]byte{cert})
	if err != nil {
		return http.StatusInternalServerError, "", []byte(err.Error())
	}
	return http.StatusOK, est.TypeCertsOnly, message
}

// authenticate returns why a client is not who it should be. An enrolment is let in by a certificate of this authority
// too, as by a birth certificate.
func (s *Server) authenticate(op est.Operation, r *http.Request) string {
	if len(r.TLS.PeerCertificates) > 0 {
		if err := r.TLS.PeerCertificates[0].CheckSignatureFrom(s.Inter); err != nil {
			return "client certificate of another authority"
		}
		return ""
	}
	if op == est.SimpleReenroll {
		return "renewal needs a client certificate"
	}
	if _, secret, _ := r.BasicAuth(); secret != s.options.Token {
		return "token is wrong or used up"
	}
	return ""
}

func readRequest(r *http.Request) (*der.Request, error) {
	if got := est.MediaType(r.Header.Get("Content-Type")); got != est.TypeRequest {
		return nil, fmt.Errorf("content type %q", got)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, est.MaxRequest))
	if err != nil {
		return nil, err
	}
	raw, err := est.DecodeBase64(body)
	if err != nil {
		return nil, err
	}
	request, err := der.ParseRequest(raw)
	if err != nil {
		return nil, err
	}
	return request, request.CheckSignature()
}

// checkBinding verifies a challengePassword, and demands one if the attributes do.
func (s *Server) checkBinding(request *der.Request, r *http.Request) string {
	if !request.HasChallengePassword {
		if s.options.Attributes.Wants(est.OIDChallengePassword) {
			return "the request is not bound to its connection"
		}
		return ""
	}
	binding := est.ChannelBinding{TLSUnique: r.TLS.TLSUnique}
	if exporter, err := r.TLS.ExportKeyingMaterial(est.ExporterLabel, nil, est.ExporterLength); err == nil {
		binding.Exporter = exporter
	}
	if !binding.Matches(request.ChallengePassword) {
		return "the request is bound to another connection"
	}
	return ""
}

// issue certifies the key of a request, or returns the certificate that it has already.
func (s *Server) issue(request *der.Request) ([]byte, error) {
	if cert := s.issued[request.HashSPKI()]; cert != nil {
		return cert, nil
	}
	template := &x509.Certificate{
		RawSubject:  request.RawSubject,
		NotAfter:    s.options.Now().Add(s.options.Life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if request.Names.Count() > 0 {
		san, err := der.BuildAltNames(request.Names)
		if err != nil {
			return nil, err
		}
		template.ExtraExtensions = []pkix.Extension{{Id: []int{2, 5, 29, 17}, Value: san}}
	}
	cert, err := s.sign(template, request.PublicKey)
	if err == nil {
		s.issued[request.HashSPKI()] = cert
	}
	return cert, err
}
