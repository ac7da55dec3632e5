package guard

// PingNumber returns the sequence number of the ping that opens a packet of ours, if one does.
func PingNumber(b []byte) (number uint32, ok bool) {
	parts, err := split(withoutCRC(b))
	if err != nil || len(parts) == 0 || len(parts[0]) == 0 || parts[0][0] != ping {
		return 0, false
	}
	f, ok := read(&reader{b: parts[0][1:]})
	return f.SeqNo, ok
}

// Acknowledge returns the answer to a ping.
func Acknowledge(number uint32) []byte { return write(ackResp, fields{SeqNo: number}) }
