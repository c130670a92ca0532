"""Headers of the MC-MED tables, in the order of its data dictionary."""

from __future__ import annotations

VISIT_COLUMNS = (
    "MRN", "CSN", "Visit_no", "Visits", "Age", "Gender", "Race", "Ethnicity", "Means_of_arrival", "Triage_Temp",
    "Triage_HR", "Triage_RR", "Triage_SpO2", "Triage_SBP", "Triage_DBP", "Triage_acuity", "CC", "ED_dispo",
    "Hours_to_next_visit", "Dispo_class_next_visit", "ED_LOS", "Hosp_LOS", "DC_dispo", "Payor_class", "Admit_service",
    "Dx_ICD9", "Dx_ICD10", "Dx_name", "Arrival_time", "Roomed_time", "Dispo_time", "Admit_time", "Departure_time",
)  # fmt: skip
PMH_COLUMNS = ("MRN", "Noted_date", "CodeType", "Code", "Desc10", "CCS", "DescCCS")
SUMMARY_COLUMNS = ("CSN", "Type", "Segments", "Duration")
ORDER_COLUMNS = ("CSN", "Order_time", "Order_type", "Procedure_name", "Procedure_ID", "First_admin_time", "Result_time")
LAB_COLUMNS = (
    "CSN", "Order_time", "Result_time", "Display_name", "Abnormal", "Component_name", "Component_result",
    "Component_value", "Component_units", "Component_abnormal", "Component_nml_low", "Component_nml_high",
)  # fmt: skip
RAD_COLUMNS = ("CSN", "Order_time", "Result_time", "Study", "Impression")
NUMERIC_COLUMNS = ("CSN", "Source", "Measure", "Value", "Time")
MED_COLUMNS = (
    "MRN", "Med_ID", "NDC", "Name", "Generic_name", "Med_class", "Med_subclass", "Active", "Entry_date", "Start_date",
    "End_date",
)  # fmt: skip
