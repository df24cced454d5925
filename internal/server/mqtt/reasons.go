package mqtt

import (
	"errors"

	"mooring/internal/base/errs"
	"mooring/internal/core/message"
	"mooring/wire/mqtt"
)

// codes are the reason codes of one kind of error in each packet of the server that can say it. 3.1.1 knows some of those of CONNACK and 0x80 in SUBACK
// (the codec translates), and nothing else: there, what is refused is dropped or ends the connection.
type codes struct{ connack, puback, suback, unsuback, disconnect mqtt.Reason }

// codesOf is the one table from kinds to codes. A stranger cannot tell what exists: NotFound is said as Denied is.
func codesOf(k errs.Kind) codes {
	switch k {
	case errs.Invalid:
		return codes{mqtt.ProtocolError, mqtt.TopicNameInvalid, mqtt.TopicFilterInvalid, mqtt.TopicFilterInvalid, mqtt.ProtocolError}
	case errs.Denied:
		return codes{mqtt.NotAuthorised, mqtt.NotAuthorised, mqtt.NotAuthorised, mqtt.NotAuthorised, mqtt.NotAuthorised}
	case errs.NotFound:
		return codes{mqtt.NotAuthorised, mqtt.NotAuthorised, mqtt.NotAuthorised, mqtt.NoSubscriptionExisted, mqtt.NotAuthorised}
	case errs.Conflict: // connecting: the client identifier changes hands too often
		return codes{mqtt.ConnectionRateExceeded, mqtt.ImplementationSpecific, mqtt.ImplementationSpecific, mqtt.ImplementationSpecific, mqtt.SessionTakenOver}
	case errs.Limited:
		return codes{mqtt.QuotaExceeded, mqtt.QuotaExceeded, mqtt.QuotaExceeded, mqtt.ImplementationSpecific, mqtt.QuotaExceeded}
	case errs.Unavailable:
		return codes{mqtt.ServerUnavailable, mqtt.ImplementationSpecific, mqtt.ImplementationSpecific, mqtt.ImplementationSpecific, mqtt.ServerBusy}
	}
	return codes{mqtt.Unspecified, mqtt.Unspecified, mqtt.Unspecified, mqtt.Unspecified, mqtt.Unspecified}
}

// connectCode returns why core refused a CONNECT.
func connectCode(err error) mqtt.Reason {
	if errors.Is(err, message.ErrClient) {
		return mqtt.ClientIDNotValid
	}
	return codesOf(errs.KindOf(err)).connack
}

// identityCode returns why nobody is known at the other end: all but an outage and a limit is the same to a stranger.
func identityCode(err error) mqtt.Reason {
	switch k := errs.KindOf(err); k {
	case errs.Unavailable, errs.Limited, errs.Internal:
		return codesOf(k).connack
	}
	return mqtt.NotAuthorised
}

// ended are the reasons by which core ends connections: what DISCONNECT says in 5.0, Success for nothing, and the name in metrics. Hard ones are not
// delayed by what waits to be written.
var ended = [...]struct {
	code mqtt.Reason
	name string
	hard bool
}{
	refused:                 {mqtt.Success, "refused", false},
	message.ReasonFarewell:  {mqtt.Success, "farewell", false},
	message.ReasonLost:      {mqtt.Success, "lost", true},
	message.ReasonProtocol:  {mqtt.ProtocolError, "protocol", false},
	message.ReasonTimeout:   {mqtt.KeepAliveTimeout, "timeout", false},
	message.ReasonTakenOver: {mqtt.SessionTakenOver, "taken_over", true},
	message.ReasonCut:       {mqtt.AdministrativeAction, "cut", true},
	message.ReasonExpired:   {mqtt.MaximumConnectTime, "expired", true},
	message.ReasonPolicy:    {mqtt.NotAuthorised, "policy", true},
	message.ReasonDenied:    {mqtt.NotAuthorised, "denied", false},
	message.ReasonRate:      {mqtt.MessageRateTooHigh, "rate", false},
	message.ReasonQuota:     {mqtt.QuotaExceeded, "quota", false},
	message.ReasonSlow:      {mqtt.QuotaExceeded, "slow", true},
	message.ReasonStopping:  {mqtt.ServerShuttingDown, "stopping", false},
	message.ReasonFabric:    {mqtt.ServerBusy, "fabric", false},
}

// reasonOf returns the reason that core is told for a fault of the peer.
func reasonOf(code mqtt.Reason) message.Reason {
	switch code {
	case mqtt.NotAuthorised:
		return message.ReasonDenied
	case mqtt.MessageRateTooHigh:
		return message.ReasonRate
	case mqtt.QuotaExceeded:
		return message.ReasonQuota
	case mqtt.KeepAliveTimeout:
		return message.ReasonTimeout
	}
	return message.ReasonProtocol
}
