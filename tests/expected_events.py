"""What each happening of the simulator becomes: the queue and the type of its event."""

from typing import Final

from dev.simulator.payloads import Kind

EXPECTED: Final = {
    Kind.CALL_STARTED: ("call-events", "CallStarted"),
    Kind.CALL_ENDED: ("call-events", "CallEnded"),
    Kind.CALL_ROSTER: ("call-events", "CallRosterUpdated"),
    Kind.CALL_RECORDING: ("call-events", "CallRecordingStateUpdated"),
    Kind.CALL_TRANSCRIPTION: ("call-events", "CallTranscriptionStateUpdated"),
    Kind.MEETING_STARTED: ("meeting-events", "MeetingCallStarted"),
    Kind.MEETING_ENDED: ("meeting-events", "MeetingCallEnded"),
    Kind.ROSTER_JOINED: ("meeting-events", "MeetingRosterUpdated"),
    Kind.ROSTER_LOBBY: ("meeting-events", "MeetingRosterUpdated"),
    Kind.ROSTER_INACTIVE: ("meeting-events", "MeetingRosterUpdated"),
    Kind.ROSTER_EXITED: ("meeting-events", "MeetingRosterUpdated"),
    Kind.MEETING_RECORDING: ("meeting-events", "MeetingRecordingStateUpdated"),
    Kind.MEETING_TRANSCRIPTION: ("meeting-events", "MeetingTranscriptionStateUpdated"),
    Kind.LEGACY_MEETING_STARTED: ("online-meeting-events", "MeetingCallStarted"),
    Kind.LEGACY_MEETING_ENDED: ("online-meeting-events", "MeetingCallEnded"),
    Kind.LEGACY_ROSTER: ("online-meeting-events", "MeetingRosterUpdated"),
    Kind.ONLINE_MEETING_UPDATED: ("online-meeting-events", "OnlineMeetingUpdated"),
    Kind.EMERGENCY_NESTED: ("emergency-call-events", "EmergencyCallStarted"),
    Kind.EMERGENCY_FLAT: ("emergency-call-events", "EmergencyCallStarted"),
    Kind.EMERGENCY_ENDED: ("emergency-call-events", "EmergencyCallEnded"),
    Kind.CALL_RECORD_CREATED: ("call-record-events", "CallRecordCreated"),
    Kind.CALL_RECORD_UPDATED: ("call-record-events", "CallRecordUpdated"),
    Kind.PRESENCE: ("presence-events", "PresenceUpdated"),
    Kind.TRANSCRIPT: ("transcript-events", "CallTranscriptCreated"),
    Kind.AD_HOC_TRANSCRIPT: ("transcript-events", "CallTranscriptCreated"),
    Kind.RECORDING: ("recording-events", "CallRecordingCreated"),
    Kind.AD_HOC_RECORDING: ("recording-events", "CallRecordingCreated"),
}
